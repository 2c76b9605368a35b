// Counting sort of the entries of a routing by expert.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../executor.h"

namespace gl {

// order[k]: the entry that comes k-th when entries go by expert, those of one expert as they were. Returns the first
// entry whose expert isn't in [0, experts), or −1: nothing is written then.
std::int64_t sort_by_expert(BlockExecutor *executor, const std::int64_t *expert, std::size_t n, std::size_t experts,
                            std::int64_t *order);

}  // namespace gl
