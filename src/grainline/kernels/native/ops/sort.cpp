#include "sort.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace gl {
namespace {

constexpr std::size_t ENTRIES = 1 << 13;  // of a block: fewer take less time than a second thread to start

}  // namespace

std::int64_t sort_by_expert(BlockExecutor *executor, const std::int64_t *expert, std::size_t n, std::size_t experts,
                            std::int64_t *order) {
    const std::size_t most = executor ? executor->workers() : 1;
    const std::size_t blocks = std::max<std::size_t>(1, std::min(most, n / ENTRIES));
    BlockExecutor *on = blocks > 1 ? executor : nullptr;
    std::vector<std::int64_t> place(blocks * experts);  // first how many, then where the next one goes
    std::atomic<std::size_t> wrong{n};
    in_chunks(on, blocks, 1, [&](std::size_t, std::size_t begin, std::size_t end) {
        for (std::size_t block = begin; block < end; ++block) {
            std::int64_t *count = place.data() + block * experts;
            for (std::size_t i = block_begin(block, n, blocks); i < block_begin(block + 1, n, blocks); ++i) {
                if (static_cast<std::uint64_t>(expert[i]) >= experts) {
                    for (std::size_t first = wrong; i < first && !wrong.compare_exchange_weak(first, i);) {
                    }
                    return;
                }
                ++count[expert[i]];
            }
        }
    });
    if (wrong < n) return static_cast<std::int64_t>(wrong.load());
    std::int64_t before = 0;
    for (std::size_t e = 0; e < experts; ++e)
        for (std::size_t block = 0; block < blocks; ++block) {
            std::int64_t &at = place[block * experts + e];
            const std::int64_t count = at;
            at = before;
            before += count;
        }
    in_chunks(on, blocks, 1, [&](std::size_t, std::size_t begin, std::size_t end) {
        for (std::size_t block = begin; block < end; ++block) {
            std::int64_t *at = place.data() + block * experts;
            for (std::size_t i = block_begin(block, n, blocks); i < block_begin(block + 1, n, blocks); ++i)
                order[at[expert[i]]++] = static_cast<std::int64_t>(i);
        }
    });
    return -1;
}

}  // namespace gl
