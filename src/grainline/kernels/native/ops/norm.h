// RMSNorm and rotary embedding, a row at a time: each is read and written once.
#pragma once

#include "simd.h"

namespace gl {
namespace {

template <class T>
void norm(const T *x, Rows rows, const T *gain, float eps, T *out, float *inverse, std::size_t begin, std::size_t end,
          std::size_t size) {
    for (std::size_t row = begin; row < end; ++row) {
        const T *from = x + begin_of(rows, row);
        T *to = out + row * size;
        F square[2] = {};
        std::size_t turn = 0;
        each_pack(size, [&](std::size_t i, auto get, auto) {
            const F v = get(from + i);
            square[turn ^= 1] += v * v;
        });
        const float by = 1.0F / __builtin_sqrtf(sum(square[0] + square[1]) / static_cast<float>(size) + eps);
        if (inverse) inverse[row] = by;
        each_pack(size, [&](std::size_t i, auto get, auto put) { put(to + i, get(from + i) * by * get(gain + i)); });
    }
}

// With n = x · inverse: d_x = inverse · (d_out · gain − n · mean(d_out · gain · n)), d_gain += Σ rows d_out · n.
template <class T>
void norm_back(const T *x, Rows rows, const T *gain, const float *inverse, const T *d_out, Rows d_rows, T *d_x,
               float *d_gain, std::size_t begin, std::size_t end, std::size_t size) {
    for (std::size_t row = begin; row < end; ++row) {
        const T *from = x + begin_of(rows, row), *d_from = d_out + begin_of(d_rows, row);
        T *to = d_x + row * size;
        const float by = inverse[row];
        F dot{};
        each_pack(size, [&](std::size_t i, auto get, auto put) {
            const F product = get(d_from + i) * get(from + i);
            dot += product * get(gain + i);
            put(d_gain + i, get(d_gain + i) + product * by);
        });
        const float back = sum(dot) / static_cast<float>(size) * by * by;
        each_pack(size, [&](std::size_t i, auto get, auto put) {
            put(to + i, (get(d_from + i) * get(gain + i) - get(from + i) * back) * by);
        });
    }
}

// One pack of pairs that lie side by side: (a, b) → (a·cos − b·sin, b·cos + a·sin); n of them, if they are no whole pack.
template <bool Whole>
inline void turn_pairs(const float *from, F cos, F sin, float *to, std::size_t n) {
    float a[W] = {}, b[W] = {}, pair[2 * W];
    for (std::size_t k = 0; k < (Whole ? W : n); ++k) a[k] = from[2 * k], b[k] = from[2 * k + 1];
    const F first = load(a), second = load(b);
    store(a, first * cos - second * sin);
    store(b, second * cos + first * sin);
    for (std::size_t k = 0; k < W; ++k) pair[2 * k] = a[k], pair[2 * k + 1] = b[k];
    std::memcpy(to, pair, 2 * (Whole ? W : n) * sizeof(float));
}

inline U narrowed(F value) {  // as the upper half of each lane
    Bf16 rounded[W];
    store(rounded, value);
    return __builtin_convertvector(bits<Half>(rounded), U) << 16;
}

template <bool Whole>
inline void turn_pairs(const Bf16 *from, F cos, F sin, Bf16 *to, std::size_t n) {
    Bf16 some[2 * W] = {};
    if (!Whole) std::memcpy(some, from, 2 * n * sizeof(Bf16));
    const U both = bits<U>(Whole ? from : some);  // a is the lower half of each lane
    const F first = (F)(both << 16), second = (F)(both & 0xffff0000u);
    const U out = (narrowed(first * cos - second * sin) >> 16) | narrowed(second * cos + first * sin);
    std::memcpy(to, &out, 2 * (Whole ? W : n) * sizeof(Bf16));
}

// The first 2·r dims of every head are turned. Rows are positions of all sequences.
template <class T>
void rotate(const T *x, const T *cos, const T *sin, T *out, const Rotation &how, std::size_t begin, std::size_t end) {
    const std::size_t r = how.turning;
    const float sign = how.back ? -1.0F : 1.0F;
    for (std::size_t row = begin; row < end; ++row) {
        const std::size_t angle =
            row / how.positions * how.angle_batch_stride + row % how.positions * how.angle_stride;
        const T *c = cos + angle, *s = sin + angle;
        for (std::size_t head = 0; head < how.heads; ++head) {
            const T *from = x + row * how.from.outer_stride + head * how.from.inner_stride;
            T *to = out + (row * how.heads + head) * how.size;
            if (how.interleaved) {
                std::size_t i = 0;
                for (; i + W <= r; i += W)
                    turn_pairs<true>(from + 2 * i, load(c + i), load(s + i) * sign, to + 2 * i, W);
                if (i < r)
                    turn_pairs<false>(from + 2 * i, load(c + i, r - i), load(s + i, r - i) * sign, to + 2 * i, r - i);
            } else {
                each_pack(r, [&](std::size_t i, auto get, auto put) {
                    const F of_cos = get(c + i), of_sin = get(s + i) * sign;
                    const F first = get(from + i), second = get(from + r + i);
                    put(to + i, first * of_cos - second * of_sin);
                    put(to + r + i, second * of_cos + first * of_sin);
                });
            }
            std::memcpy(to + 2 * r, from + 2 * r, (how.size - 2 * r) * sizeof(T));
        }
    }
}

}  // namespace
}  // namespace gl
