// compile with: -ffp-contract=fast -Wno-psabi
// on x86_64 with: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mfma
#ifdef __x86_64__
#define GL_LANES 16
#define GL_BF16
#include "ops.h"

namespace gl {
const Ops OPS_AVX512_BF16 = ops("avx512_bf16");
}
#endif
