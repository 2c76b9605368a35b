// compile with: -ffp-contract=off
// on x86_64 with: -mavx2
#ifdef __x86_64__
#include "loops.h"

namespace gl {
const InstructionSet AVX2 = instruction_set<32>("avx2");
}
#endif
