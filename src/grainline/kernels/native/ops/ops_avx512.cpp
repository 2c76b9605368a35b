// compile with: -ffp-contract=fast -Wno-psabi
// on x86_64 with: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma
#ifdef __x86_64__
#define GL_LANES 16
#include "ops.h"

namespace gl {
const Ops OPS_AVX512 = ops("avx512");
}
#endif
