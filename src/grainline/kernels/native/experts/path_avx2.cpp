// compile with: -ffp-contract=fast
// on x86_64 with: -mavx2 -mfma
#ifdef __x86_64__
#include "path.h"

namespace gl::experts {
using Engine = Registers<FloatWords, 8, 6>;
const Path AVX2 = path<Engine, Engine>("avx2");
}
#endif
