// compile with: -ffp-contract=fast
// on x86_64 with: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512
#ifdef __x86_64__
#include "path.h"

namespace gl::experts {
using Engine = Registers<FloatWords, 16, 14>;
const Path AVX512 = path<Engine, Engine>("avx512");
}
#endif
