// compile with: -ffp-contract=fast
// on x86_64 with: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mfma -mprefer-vector-width=512
#ifdef __x86_64__
#include "path.h"

namespace gl::experts {
const Path AVX512_BF16 = path<Registers<FloatWords, 16, 14>, Registers<PairWords, 16, 14>>("avx512-bf16");
}
#endif
