// Sixteen rows of weights by up to four tokens' values, along the depth, where they lie. A kind of weights says how a
// token's values are prepared for it. Weights are matrices of `rows` rows, one after another.
#pragma once

#include "near.h"

namespace gl::experts {
namespace {

constexpr i64 BLOCK = 128;      // prepared from floats that are 0 from the depth on to a multiple of it
constexpr i64 ROWS = 16;        // that are multiplied together
constexpr i64 MOST_TOKENS = 4;  // that use weights while they are in registers

template <std::size_t N>
constexpr i64 PARTS = 16 / static_cast<i64>(N);  // packs of 16 words, a line of memory

inline const float *floats(const char *values) { return reinterpret_cast<const float *>(values); }

// rows[i] for i < S becomes what adds up to rows[i]'s sum in its lower, rows[i + S]'s in its upper half, and so on.
template <std::size_t N, std::size_t S = N / 2>
inline void sum_across(Floats<N> *rows) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < S; ++i) {
        const Words<N> a = (Words<N>)rows[i], b = (Words<N>)rows[i + S];
        rows[i] = (Floats<N>)chosen<N, Upper<N, S>>(a, b, std::make_index_sequence<N>{}) +
                  (Floats<N>)chosen<N, Lower<N, S>>(a, b, std::make_index_sequence<N>{});
    }
    if constexpr (S > 1) sum_across<N, S / 2>(rows);
}

// Weights as they are. Two rows are read side by side, each in packs whose sums are added up at last.
template <std::size_t N, class W>
struct Plain {
    static constexpr bool CODED = false;
    static constexpr i64 STEP = LINE / static_cast<i64>(sizeof(W));
    const W *weights;
    i64 rows, depth;

    i64 bytes() const { return rows * depth * static_cast<i64>(sizeof(W)); }
    const W *row(i64 matrix, i64 row) const { return weights + (matrix * rows + row) * depth; }
    Run run(i64 matrix, i64 first, i64 count) const {
        const W *begin = row(matrix, first), *end = row(matrix, first + count);
        return {reinterpret_cast<const char *>(begin), reinterpret_cast<const char *>(end), nullptr};
    }

    i64 token_bytes() const { return up_to(depth, BLOCK) * 4; }
    // For bfloat16, of which a word holds two neighbours: N even ones, then their odd neighbours, and so on.
    void prepare(const float *x, char *to) const {
        constexpr i64 n = N;
        if constexpr (sizeof(W) == 4) {
            __builtin_memcpy(to, x, static_cast<std::size_t>(token_bytes()));
        } else {
            float *packs = reinterpret_cast<float *>(to);
            for (i64 k = 0; k < up_to(depth, BLOCK); k += 2 * n)
                for (i64 i = 0; i < n; ++i) packs[k + i] = x[k + 2 * i], packs[k + n + i] = x[k + 2 * i + 1];
        }
    }

    // A line of weights by its values of each token.
    template <i64 M>
    static void line(const W *from, const char *const *x, i64 k, Floats<N> (&sums)[M][PARTS<N>]) {
        constexpr i64 n = N;
#pragma GCC unroll 4
        for (i64 p = 0; p < PARTS<N>; ++p) {
            if constexpr (sizeof(W) == 4) {
                const Floats<N> v = load<N>(from + p * n);
#pragma GCC unroll 4
                for (i64 m = 0; m < M; ++m) sums[m][p] += v * load<N>(floats(x[m]) + k + p * n);
            } else {
                const Words<N> pairs = load_as<Words<N>>(from + p * 2 * n);
                const Floats<N> even = (Floats<N>)(pairs << 16), odd = (Floats<N>)(pairs & 0xffff0000u);
#pragma GCC unroll 4
                for (i64 m = 0; m < M; ++m) {
                    sums[m][p] += even * load<N>(floats(x[m]) + k + p * 2 * n);
                    sums[m][p] += odd * load<N>(floats(x[m]) + k + p * 2 * n + n);
                }
            }
        }
    }
    // R rows by M tokens → N sums each.
    template <i64 M, i64 R>
    void along(const W *from, const char *const *x, Near &near, Floats<N> (*total)[M]) const {
        Floats<N> sums[R][M][PARTS<N>] = {};
        i64 k = 0;
        for (; k + STEP <= depth; k += STEP)
#pragma GCC unroll 2
            for (i64 r = 0; r < R; ++r) {
                near.step();
                line<M>(from + r * depth + k, x, k, sums[r]);
            }
        if (k < depth)
            for (i64 r = 0; r < R; ++r) {
                W some[STEP] = {};
                near.step();
                for (i64 i = 0; i < depth - k; ++i) some[i] = from[r * depth + k + i];
                line<M>(some, x, k, sums[r]);
            }
        for (i64 r = 0; r < R; ++r)
            for (i64 m = 0; m < M; ++m) {
                total[r][m] = sums[r][m][0];
                for (i64 p = 1; p < PARTS<N>; ++p) total[r][m] += sums[r][m][p];
            }
    }
    template <i64 M>
    void times(i64 matrix, i64 first, i64 count, const char *const *x, Near &near, float *to, i64 stride) const {
        constexpr i64 n = N;
        for (i64 begin = 0; begin < count; begin += n) {
            Floats<N> sums[M][N], total[2][M];
            const i64 here = min(n, count - begin);
            i64 r = 0;
            const auto keep = [&](i64 many) {
                for (i64 i = 0; i < many; ++i, ++r)
                    for (i64 m = 0; m < M; ++m) sums[m][r] = total[i][m];
            };
            while (r + 2 <= here) along<M, 2>(row(matrix, first + begin + r), x, near, total), keep(2);
            if (r < here) along<M, 1>(row(matrix, first + begin + r), x, near, total), keep(1);
            for (i64 m = 0; m < M; ++m) {
                for (i64 i = here; i < n; ++i) sums[m][i] = Floats<N>{};
                sum_across<N>(sums[m]);
                store<N>(to + m * stride + begin, sums[m][0]);
            }
        }
    }
};

// to[m · stride + r] = row `first + r` of a matrix by token m, for r < rows; up to ROWS more are written. `first` is a
// multiple of ROWS.
template <i64 M, class Kind>
void products(const Kind &kind, i64 matrix, i64 first, i64 rows, Run next, const char *const *x, float *to, i64 stride) {
    Near near(kind.run(matrix, first, rows), next);
    for (i64 i = 0; Kind::CODED && i < 4; ++i) __builtin_prefetch(next.scales + i * LINE);
    for (i64 r = 0; r < rows; r += ROWS)
        kind.template times<M>(matrix, first + r, min(ROWS, rows - r), x, near, to + r, stride);
}
template <class Kind>
void products(i64 tokens, const Kind &kind, i64 matrix, i64 first, i64 rows, Run next, const char *const *x, float *to,
              i64 stride) {
    switch (tokens) {
        case 1: return products<1>(kind, matrix, first, rows, next, x, to, stride);
        case 2: return products<2>(kind, matrix, first, rows, next, x, to, stride);
        case 3: return products<3>(kind, matrix, first, rows, next, x, to, stride);
        default: return products<4>(kind, matrix, first, rows, next, x, to, stride);
    }
}

}  // namespace
}  // namespace gl::experts
