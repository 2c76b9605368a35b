// What one instruction set offers of the ops beside the experts. Sums are in float32 whatever the elements are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gl {

struct Bf16 {
    std::uint16_t raw;
};

// Rows of a tensor [outer, inner, …] whose last dimension is contiguous: where each begins, in elements.
struct Rows {
    std::size_t inner, outer_stride, inner_stride;
};

struct Rotation {
    std::size_t heads, size, turning;  // of a position; of a head; half of what turns
    Rows from;                         // positions are outer, heads inner
    std::size_t positions;             // of a sequence
    std::size_t angle_batch_stride, angle_stride;
    bool interleaved, back;
};

// Attention of one query per sequence over pages of keys and values; strides in elements.
struct Pages {
    std::size_t page_stride, token_stride, head_stride;
    const float *scale;  // [pages, page tokens, G] of int8 elements, else null
};
struct Decode {
    const float *q;  // [B, H, width], times the scale, width a multiple of 16 filled up with zeros
    std::size_t heads, groups, width, k_size, v_size, page_tokens, table_stride, split, splits;
    Pages k, v;
    const std::int64_t *table, *length;  // both null: sequence b has page b, and all of it
    float *partial;  // [B, splits, H, 2 + v_size]: largest score, sum of weights, weighted sum of values
};

template <class T>
struct OpsOf {
    void (*norm)(const T *x, Rows rows, const T *gain, float eps, T *out, float *inverse, std::size_t begin,
                 std::size_t end, std::size_t size);
    void (*norm_back)(const T *x, Rows rows, const T *gain, const float *inverse, const T *d_out, Rows d_rows, T *d_x,
                      float *d_gain, std::size_t begin, std::size_t end, std::size_t size);
    void (*rotate)(const T *x, const T *cos, const T *sin, T *out, const Rotation &how, std::size_t begin,
                   std::size_t end);
    void (*cross_entropy)(T *logits, const std::int64_t *label, float *loss, bool gradient, std::size_t begin,
                          std::size_t end, std::size_t size);
    void (*decode)(const T *k, const T *v, const Decode &how, std::size_t begin, std::size_t end);
};

struct Ops {
    const char *name;
    OpsOf<float> f32;
    OpsOf<Bf16> bf16;
    void (*decode_int8)(const std::int8_t *k, const std::int8_t *v, const Decode &how, std::size_t begin,
                        std::size_t end);
    // The best `top` of each row, best first, ties to the lower index; NaN is best. At most MOST_CHOICES, MOST_KEPT.
    void (*best)(const float *score, std::int64_t *index, float *value, std::size_t begin, std::size_t end,
                 std::size_t choices, std::size_t top);
};

constexpr std::size_t MOST_CHOICES = 1024, MOST_KEPT = 64;

extern const Ops OPS_PORTABLE;
#ifdef __x86_64__
extern const Ops OPS_AVX2, OPS_AVX512, OPS_AVX512_BF16;
#endif

}  // namespace gl
