// compile with: -ffp-contract=off
// on x86_64 with: -mavx512f
#ifdef __x86_64__
#include "loops.h"

namespace gl {
const InstructionSet AVX512 = instruction_set<64>("avx512");
}
#endif
