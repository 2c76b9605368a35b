// compile with: -ffp-contract=fast
// on x86_64 with: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mfma -mprefer-vector-width=512 -mamx-tile -mamx-bf16
#ifdef __x86_64__
#include "path.h"

namespace gl::experts {
const Path AMX = path<Registers<FloatWords, 16, 14>, Tiles>("amx");
}
#endif
