// The C functions of the ops beside the experts. They trust shapes and pointers, which Python has checked, and check the
// numbers inside that say where to read or write. `executor`: null computes on the calling thread; `narrow`: elements
// are bfloat16, else float.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../executor.h"
#include "sort.h"
#include "table.h"

#define GL_API extern "C" __attribute__((visibility("default")))

namespace {

using gl::BlockExecutor;
using gl::Ops;
using gl::OpsOf;

constexpr std::size_t CHUNK_ELEMENTS = 1 << 14;  // of elementwise work: below, a second thread costs what it brings

const std::vector<const Ops *> &runnable() {
    static const std::vector<const Ops *> found = [] {
        std::vector<const Ops *> sets = {&gl::OPS_PORTABLE};
#ifdef __x86_64__
#ifndef GL_WITHOUT_OPS_AVX2
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&gl::OPS_AVX2);
#endif
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#ifndef GL_WITHOUT_OPS_AVX512
            sets.push_back(&gl::OPS_AVX512);
#endif
#ifndef GL_WITHOUT_OPS_AVX512_BF16
            if (__builtin_cpu_supports("avx512bf16")) sets.push_back(&gl::OPS_AVX512_BF16);
#endif
        }
#endif
        return sets;
    }();
    return found;
}

// set: the number of an instruction set, or −1 for the widest.
const Ops &ops_of(std::int64_t set) {
    const auto &sets = runnable();
    return set < 0 ? *sets.back() : *sets[static_cast<std::size_t>(set)];
}

BlockExecutor *executor_of(void *executor) { return static_cast<BlockExecutor *>(executor); }

std::size_t rows_of_chunk(std::size_t row_elements) {
    return std::max<std::size_t>(1, CHUNK_ELEMENTS / std::max<std::size_t>(1, row_elements));
}

// body(ops of the element type, a null pointer of that type)
template <class Body>
void by_type(std::int64_t set, std::int32_t narrow, const Body &body) {
    const Ops &ops = ops_of(set);
    narrow ? body(ops.bf16, static_cast<gl::Bf16 *>(nullptr)) : body(ops.f32, static_cast<float *>(nullptr));
}

}  // namespace

GL_API std::int64_t gl_ops_sets() { return static_cast<std::int64_t>(runnable().size()); }
GL_API const char *gl_ops_set_name(std::int64_t set) { return runnable()[set]->name; }

GL_API std::int64_t gl_sort_by_expert(void *executor, const std::int64_t *expert, std::int64_t n, std::int64_t experts,
                                      std::int64_t *order) {
    return gl::sort_by_expert(executor_of(executor), expert, n, experts, order);
}

GL_API std::int64_t gl_most_choices() { return gl::MOST_CHOICES; }

GL_API void gl_best(void *executor, std::int64_t set, const float *score, std::int64_t *index, float *value,
                    std::int64_t rows, std::int64_t choices, std::int64_t top) {
    gl::in_chunks(executor_of(executor), rows, rows_of_chunk(choices * (1 + top)),
                  [&](std::size_t, std::size_t begin, std::size_t end) {
                      ops_of(set).best(score, index, value, begin, end, choices, top);
                  });
}

// inverse: float [rows], or null where no gradient is wanted.
GL_API void gl_norm(void *executor, std::int64_t set, std::int32_t narrow, const void *x, std::int64_t inner,
                    std::int64_t outer_stride, std::int64_t inner_stride, const void *gain, float eps, void *out,
                    float *inverse, std::int64_t rows, std::int64_t size) {
    const gl::Rows from{static_cast<std::size_t>(inner), static_cast<std::size_t>(outer_stride),
                        static_cast<std::size_t>(inner_stride)};
    by_type(set, narrow, [&](const auto &ops, auto *of) {
        using T = std::remove_pointer_t<decltype(of)>;
        gl::in_chunks(executor_of(executor), rows, rows_of_chunk(size), [&](std::size_t, std::size_t begin, std::size_t end) {
            ops.norm(static_cast<const T *>(x), from, static_cast<const T *>(gain), eps, static_cast<T *>(out), inverse,
                     begin, end, size);
        });
    });
}

// d_gain: float [size]. Blocks of rows are added in order, so that every run with as many workers adds alike.
GL_API void gl_norm_back(void *executor, std::int64_t set, std::int32_t narrow, const void *x, const std::int64_t *x_rows,
                         const void *gain, const float *inverse, const void *d_out, const std::int64_t *d_rows, void *d_x,
                         float *d_gain, std::int64_t rows, std::int64_t size) {
    const auto rows_of = [](const std::int64_t *of) {
        return gl::Rows{static_cast<std::size_t>(of[0]), static_cast<std::size_t>(of[1]), static_cast<std::size_t>(of[2])};
    };
    const std::size_t most = executor ? executor_of(executor)->workers() : 1;
    const std::size_t blocks = std::max<std::size_t>(1, std::min<std::size_t>(most, rows / rows_of_chunk(size)));
    std::vector<float> parts(blocks * size);
    by_type(set, narrow, [&](const auto &ops, auto *of) {
        using T = std::remove_pointer_t<decltype(of)>;
        gl::in_chunks(blocks > 1 ? executor_of(executor) : nullptr, blocks, 1, [&](std::size_t, std::size_t begin, std::size_t end) {
            for (std::size_t block = begin; block < end; ++block)
                ops.norm_back(static_cast<const T *>(x), rows_of(x_rows), static_cast<const T *>(gain), inverse,
                              static_cast<const T *>(d_out), rows_of(d_rows), static_cast<T *>(d_x),
                              parts.data() + block * size, gl::block_begin(block, rows, blocks),
                              gl::block_begin(block + 1, rows, blocks), size);
        });
    });
    std::copy_n(parts.data(), size, d_gain);
    for (std::size_t block = 1; block < blocks; ++block)
        for (std::int64_t i = 0; i < size; ++i) d_gain[i] += parts[block * size + i];
}

// how: heads, size of a head, half of what turns, strides of positions and heads, positions of a sequence, strides of
// the angles' sequences and positions, whether pairs are interleaved, whether to turn back.
GL_API void gl_rotate(void *executor, std::int64_t set, std::int32_t narrow, const void *x, const void *cos,
                      const void *sin, void *out, const std::int64_t *how, std::int64_t rows) {
    const auto at = [&](int i) { return static_cast<std::size_t>(how[i]); };
    const gl::Rotation rotation{at(0), at(1), at(2), {at(0), at(3), at(4)}, at(5), at(6), at(7), how[8] != 0, how[9] != 0};
    by_type(set, narrow, [&](const auto &ops, auto *of) {
        using T = std::remove_pointer_t<decltype(of)>;
        gl::in_chunks(executor_of(executor), rows, rows_of_chunk(at(0) * at(1)), [&](std::size_t, std::size_t begin, std::size_t end) {
            ops.rotate(static_cast<const T *>(x), static_cast<const T *>(cos), static_cast<const T *>(sin),
                       static_cast<T *>(out), rotation, begin, end);
        });
    });
}

// Returns the first row whose label is neither −100 nor below `size`, or −1: nothing is written then.
GL_API std::int64_t gl_cross_entropy(void *executor, std::int64_t set, std::int32_t narrow, void *logits,
                                     const std::int64_t *label, float *loss, std::int32_t gradient, std::int64_t rows,
                                     std::int64_t size) {
    for (std::int64_t row = 0; row < rows; ++row)
        if (label[row] != -100 && (label[row] < 0 || label[row] >= size)) return row;
    by_type(set, narrow, [&](const auto &ops, auto *of) {
        using T = std::remove_pointer_t<decltype(of)>;
        gl::in_chunks(executor_of(executor), rows, rows_of_chunk(size), [&](std::size_t, std::size_t begin, std::size_t end) {
            ops.cross_entropy(static_cast<T *>(logits), label, loss, gradient != 0, begin, end, size);
        });
    });
    return -1;
}

// element: 0 float, 1 bfloat16, 2 int8 with scales. sizes: B, H, G, k and v sizes, pages, page tokens, table stride;
// strides: page, token, head of k, then of v. q, out: float, contiguous. table and length null: each sequence has one
// page, and all of it. Returns the first sequence whose length or pages
// are out of range, or −1: nothing is written then.
GL_API std::int64_t gl_decode(void *executor, std::int64_t set, std::int32_t element, const float *q, const void *k,
                              const void *v, const float *k_scale, const float *v_scale, const std::int64_t *table,
                              const std::int64_t *length, float *out, float scale, const std::int64_t *sizes,
                              const std::int64_t *strides) {
    const auto size = [&](int i) { return static_cast<std::size_t>(sizes[i]); };
    const auto stride = [&](int i) { return static_cast<std::size_t>(strides[i]); };
    const std::size_t sequences = size(0), heads = size(1), k_size = size(3), v_size = size(4), page_tokens = size(6);
    std::size_t longest = 0, all = 0;
    for (std::size_t b = 0; b < sequences; ++b) {
        const std::size_t tokens = length ? static_cast<std::size_t>(length[b]) : page_tokens;
        longest = std::max(longest, tokens), all += tokens;
        if (length == nullptr) continue;
        if (length[b] < 0 || tokens > size(7) * page_tokens) return static_cast<std::int64_t>(b);
        for (std::size_t i = 0; i * page_tokens < tokens; ++i) {
            const std::int64_t page = table[b * size(7) + i];
            if (page < 0 || page >= sizes[5]) return static_cast<std::int64_t>(b);
        }
    }
    // Four runs of tokens per worker, so that the last to be done isn't late by much; none so short that starting costs.
    BlockExecutor *on = executor_of(executor);
    const std::size_t wanted = on ? 4 * on->workers() : 1, least = std::max<std::size_t>(1, 8192 / (size(2) * k_size));
    const std::size_t split = std::max((all + wanted - 1) / wanted, std::max<std::size_t>(least, 16));
    const std::size_t splits = std::max<std::size_t>(1, (longest + split - 1) / split);
    const std::size_t width = (k_size + 15) / 16 * 16, row = 2 + v_size;
    std::vector<float> padded(sequences * heads * width), partial(sequences * splits * heads * row);
    for (std::size_t i = 0; i < sequences * heads; ++i)
        for (std::size_t d = 0; d < k_size; ++d) padded[i * width + d] = q[i * k_size + d] * scale;
    const gl::Decode how{padded.data(), heads, size(2), width, k_size, v_size, page_tokens, size(7), split, splits,
                         {stride(0), stride(1), stride(2), k_scale}, {stride(3), stride(4), stride(5), v_scale},
                         table, length, partial.data()};
    const Ops &ops = ops_of(set);
    gl::in_chunks(on, sequences * splits, 1, [&](std::size_t, std::size_t begin, std::size_t end) {
        if (element == 0) ops.f32.decode(static_cast<const float *>(k), static_cast<const float *>(v), how, begin, end);
        if (element == 1) ops.bf16.decode(static_cast<const gl::Bf16 *>(k), static_cast<const gl::Bf16 *>(v), how, begin, end);
        if (element == 2) ops.decode_int8(static_cast<const std::int8_t *>(k), static_cast<const std::int8_t *>(v), how, begin, end);
    });
    for (std::size_t b = 0; b < sequences; ++b)
        for (std::size_t head = 0; head < heads; ++head) {
            const float *first = partial.data() + (b * splits * heads + head) * row;
            float *to = out + (b * heads + head) * v_size;
            float top = -INFINITY, total = 0;
            for (std::size_t s = 0; s < splits; ++s) top = std::max(top, first[s * heads * row]);
            std::fill_n(to, v_size, 0.0F);
            for (std::size_t s = 0; s < splits; ++s) {
                const float *part = first + s * heads * row;
                if (part[1] == 0) continue;  // no tokens
                const float by = std::exp(part[0] - top);
                total += part[1] * by;
                for (std::size_t d = 0; d < v_size; ++d) to[d] += part[2 + d] * by;
            }
            for (std::size_t d = 0; d < v_size && total != 0; ++d) to[d] /= total;
        }
    return -1;
}
