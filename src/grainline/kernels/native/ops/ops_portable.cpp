// compile with: -ffp-contract=fast -Wno-psabi
#define GL_LANES 4
#include "ops.h"

namespace gl {
const Ops OPS_PORTABLE = ops("portable");
}
