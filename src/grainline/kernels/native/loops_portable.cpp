// compile with: -ffp-contract=off
#include "loops.h"

namespace gl {
const InstructionSet PORTABLE = instruction_set<16>("portable");
}
