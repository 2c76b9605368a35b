// compile with: -ffp-contract=fast
#include "path.h"

namespace gl::experts {
using Engine = Registers<FloatWords, 4, 6>;
const Path PORTABLE = path<Engine, Engine>("portable");
}
