// compile with: -ffp-contract=fast -Wno-psabi
// on x86_64 with: -mavx2 -mfma
#ifdef __x86_64__
#define GL_LANES 8
#include "ops.h"

namespace gl {
const Ops OPS_AVX2 = ops("avx2");
}
#endif
