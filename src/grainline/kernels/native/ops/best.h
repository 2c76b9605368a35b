// The best few of each row of scores.
#pragma once

#include "simd.h"

namespace gl {
namespace {

constexpr std::int32_t TAKEN = INT32_MIN;

// Integers in the order of the floats: NaN above all, −0 equal to 0. None is TAKEN.
inline I ordered(F v) {
    v += 0.0F;  // −0 becomes 0
    const I raw = (I)v;
    const I key = raw ^ ((raw >> 31) & 0x7fffffff);
    return v == v ? key : I{} + INT32_MAX;
}

// The first lane that equals `value`, or W.
inline std::size_t first_equal(I v, std::int32_t value) {
#if GL_LANES == 16
    const unsigned mask = _mm512_cmpeq_epi32_mask((__m512i)v, _mm512_set1_epi32(value));
    return mask ? static_cast<std::size_t>(__builtin_ctz(mask)) : W;
#elif GL_LANES == 8
    const int mask = _mm256_movemask_ps((__m256)(v == value));
    return mask ? static_cast<std::size_t>(__builtin_ctz(static_cast<unsigned>(mask))) : W;
#else
    std::size_t lane = 0;
    while (lane < W && v[lane] != value) ++lane;
    return lane;
#endif
}

inline std::int32_t largest(I v) {
#if GL_LANES == 16
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    std::int32_t lane[W];
    std::memcpy(lane, &v, sizeof lane);
    for (std::size_t i = 1; i < W; ++i) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
#endif
}

// Each pass finds the largest that is left, and then the first place where it is.
void best(const float *score, std::int64_t *index, float *value, std::size_t begin, std::size_t end,
          std::size_t choices, std::size_t top) {
    constexpr std::size_t MOST_PACKS = MOST_CHOICES / W;
    const std::size_t packs = (choices + W - 1) / W;
    I key[MOST_PACKS];
    for (std::size_t row = begin; row < end; ++row) {
        const float *from = score + row * choices;
        for (std::size_t p = 0; p < packs; ++p) {
            const std::size_t left = choices - p * W;
            key[p] = ordered(left < W ? load(from + p * W, left) : load(from + p * W));
            for (std::size_t lane = left; lane < W; ++lane) key[p][lane] = TAKEN;
        }
        for (std::size_t k = 0; k < top; ++k) {
            I most = key[0];
            for (std::size_t p = 1; p < packs; ++p) most = key[p] > most ? key[p] : most;
            const std::int32_t found = largest(most);
            std::size_t p = 0, lane = first_equal(key[0], found);
            while (lane == W) lane = first_equal(key[++p], found);
            const std::size_t at = p * W + lane;
            key[p][lane] = TAKEN;
            index[row * top + k] = static_cast<std::int64_t>(at);
            value[row * top + k] = from[at];
        }
    }
}

}  // namespace
}  // namespace gl
