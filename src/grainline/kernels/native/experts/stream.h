// The same for a few entries per expert: every weight that is needed is read once, as it lies, at memory's speed.
//
// A product is a row of weights by a token's values, summed over the depth in packs. Weights may be codes of 8 or 4
// bits with a scale for each group of `group` codes along the depth.
#pragma once

#include "work.h"

namespace gl::experts {
namespace {

constexpr i64 BLOCK = 128;      // the depth of coded weights is rounded up to it
constexpr i64 AT_ONCE = 4;      // rows of weights that are read side by side
constexpr i64 MOST_TOKENS = 4;  // that use a row of weights while it is in registers
constexpr i64 ROWS_EACH = 32;   // rows of weights of a task
constexpr i64 NEAR = 8192;      // bytes that are asked for ahead of their use, at least

// Where a matrix [E · rows, depth] of weights is; `load` gives N values of a row from k on.
template <std::size_t N, class W>
struct Plain {
    const W *weights;
    i64 depth;
    i64 run() const { return depth; }  // values under one scale
    float scale(i64, i64) const { return 1.0F; }
    Floats<N> load(i64 row, i64 k) const { return gl::experts::load<N>(weights + row * depth + k, depth - k); }
    const char *place(i64 row, i64 k) const { return reinterpret_cast<const char *>(weights + row * depth + k); }
    static constexpr i64 LINE = 64 / sizeof(W);  // values in a line of memory
};

template <std::size_t N>
struct Coded {
    const void *codes;
    const float *scales;
    i64 depth, group;
    i64 run() const { return group; }
    float scale(i64 row, i64 k) const { return scales[row * (depth / group) + k / group]; }
};

template <std::size_t N>
struct Bytes : Coded<N> {
    Floats<N> load(i64 row, i64 k) const {
        const auto *from = static_cast<const signed char *>(this->codes) + row * this->depth + k;
#ifdef __AVX512F__
        if constexpr (N == 16) {  // compilers go value by value otherwise
            const __m512i wide = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
            return (Floats<N>)_mm512_maskz_cvtepi32_ps(0xffff, wide);
        }
#endif
        return __builtin_convertvector(load_as<Pack<signed char, N>>(from), Floats<N>);
    }
    static constexpr i64 LINE = 64;  // values in a line of memory
    const char *place(i64 row, i64 k) const { return static_cast<const char *>(this->codes) + row * this->depth + k; }
};

// 128 codes are 16 words of 8: code 16 · s + j is nibble s of word j, and stands for its value + 8.
template <std::size_t N>
struct Nibbles : Coded<N> {
    Floats<N> load(i64 row, i64 k) const {
        const auto *words = static_cast<const u32 *>(this->codes) + (row * this->depth + k / BLOCK * BLOCK) / 8 + k % 16;
        const Words<N> shifted = load_as<Words<N>>(words) >> static_cast<u32>(k % BLOCK / 16 * 4);
#ifdef __AVX512F__
        if constexpr (N == 16) {
            const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
            return (Floats<N>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)shifted, values);  // by the lowest 4 bits
        }
#endif
        return __builtin_convertvector((Pack<std::int32_t, N>)(shifted & 15u), Floats<N>) - 8.0F;
    }
    const char *place(i64 row, i64 k) const {
        return static_cast<const char *>(this->codes) + (row * this->depth + k) / 2;
    }
    static constexpr i64 LINE = 128;
};

// dots[r][m] = weights[row + r] · x[m] for R rows and M tokens; x: floats, 0 from the depth on to a multiple of N.
template <std::size_t N, i64 R, i64 M, class Source>
void dots(const Source &source, i64 row, i64 end_row, const float *const *x, float (*to)[MOST_TOKENS]) {
    const char *past = source.place(end_row, 0);
    const i64 ahead = max(NEAR, source.place(row + R, 0) - source.place(row, 0));
    Floats<N> total[R][M] = {};
    const i64 run = source.run(), depth = source.depth;
    for (i64 begin = 0; begin < depth; begin += run) {
        const i64 end = begin + run;
        Floats<N> part[R][M] = {};
        i64 k = begin;
        const auto step = [&](i64 k) {
            Floats<N> values[M];
#pragma GCC unroll 4
            for (i64 m = 0; m < M; ++m) values[m] = load<N>(x[m] + k);
#pragma GCC unroll 4
            for (i64 r = 0; r < R; ++r) {
                if (k % Source::LINE == 0) {
                    const char *next = source.place(row + r, k) + ahead;
                    if (next < past) __builtin_prefetch(next, 0, 2);
                }
                const Floats<N> weights = source.load(row + r, k);
#pragma GCC unroll 4
                for (i64 m = 0; m < M; ++m) part[r][m] += weights * values[m];
            }
        };
        for (; k + static_cast<i64>(N) <= end; k += N) step(k);
        if (k < end) step(k);
#pragma GCC unroll 4
        for (i64 r = 0; r < R; ++r) {
            const float scale = source.scale(row + r, begin);
#pragma GCC unroll 4
            for (i64 m = 0; m < M; ++m) total[r][m] += scale * part[r][m];
        }
    }
    for (i64 r = 0; r < R; ++r)
        for (i64 m = 0; m < M; ++m) to[r][m] = sum<N>(total[r][m]);
}

// The same for up to AT_ONCE rows and MOST_TOKENS tokens.
template <std::size_t N, i64 R, class Source>
void dots_of(i64 tokens, const Source &source, i64 row, i64 end_row, const float *const *x, float (*to)[MOST_TOKENS]) {
    switch (tokens) {
        case 1: return dots<N, R, 1>(source, row, end_row, x, to);
        case 2: return dots<N, R, 2>(source, row, end_row, x, to);
        case 3: return dots<N, R, 3>(source, row, end_row, x, to);
        default: return dots<N, R, 4>(source, row, end_row, x, to);
    }
}
template <std::size_t N, class Source>
void dots_some(i64 rows, i64 tokens, const Source &source, i64 row, i64 end_row, const float *const *x, float (*to)[MOST_TOKENS]) {
    if (rows == AT_ONCE) return dots_of<N, AT_ONCE>(tokens, source, row, end_row, x, to);
    for (i64 r = 0; r < rows; ++r) dots_of<N, 1>(tokens, source, row + r, end_row, x, to + r);
}

// Token values as floats, `depth` of them in rows of `stride`.
template <std::size_t N, class T>
void widen(const T *from, i64 rows, i64 depth, i64 stride, float *to) {
    for (i64 r = 0; r < rows; ++r)
        for (i64 k = 0; k < stride; k += N) store<N>(to + r * stride + k, load<N>(from + r * depth + k, depth - k));
}

template <std::size_t N, class T, class Source>
void stream(Crew &crew, const Problem &p, const Source &w13, const Source &w2) {
    const i64 D = p.model, F = p.hidden;
    const i64 wide_D = up_to(w13.depth, 64), wide_F = up_to(w2.depth, 64);
    i64 active = 0;
    Memory memory(crew, crew.workers(), 4 * (p.tokens * (wide_D + D) + p.entries * wide_F) + 8 * p.experts + 1024);
    i64 *used = memory.take<i64>(p.experts);
    for (i64 e = 0; e < p.experts; ++e)
        if (p.start[e + 1] > p.start[e]) used[active++] = e;
    float *x = memory.take<float>(p.tokens * wide_D), *act = memory.take<float>(p.entries * wide_F);
    float *sums = sizeof(T) == 4 ? static_cast<float *>(p.out) : memory.take<float>(p.tokens * D);
    widen<N>(static_cast<const T *>(p.x), p.tokens, D, wide_D, x);

    const i64 blocks_F = (F + ROWS_EACH - 1) / ROWS_EACH;
    each(crew, active * blocks_F, [&](i64 index, i64) {
        const i64 e = used[index / blocks_F], from = index % blocks_F * ROWS_EACH, to = min(F, from + ROWS_EACH);
        for (i64 n = p.start[e]; n < p.start[e + 1]; n += MOST_TOKENS) {
            const i64 tokens = min(MOST_TOKENS, p.start[e + 1] - n);
            const float *values[MOST_TOKENS];
            for (i64 m = 0; m < tokens; ++m) values[m] = x + (p.unit ? p.unit[n + m] : n + m) * wide_D;
            for (i64 f = from; f < to; f += AT_ONCE) {
                const i64 rows = min(AT_ONCE, to - f);
                float gate[AT_ONCE][MOST_TOKENS], up[AT_ONCE][MOST_TOKENS];
                dots_some<N>(rows, tokens, w13, e * 2 * F + f, e * 2 * F + to, values, gate);
                dots_some<N>(rows, tokens, w13, e * 2 * F + F + f, e * 2 * F + F + to, values, up);
                for (i64 m = 0; m < tokens; ++m)
                    for (i64 r = 0; r < rows; ++r) {
                        const float g = gate[r][m], u = up[r][m];
                        act[(n + m) * wide_F + f + r] = g * sigmoid<4>(spread<4>(g))[0] * u;
                        if (p.h) {
                            T *h = static_cast<T *>(p.h) + (n + m) * 2 * F + f + r;
                            store<4>(h, spread<4>(g), 1), store<4>(h + F, spread<4>(u), 1);
                        }
                    }
            }
        }
        if (to == F)  // what the depth is rounded up by
            for (i64 n = p.start[e]; n < p.start[e + 1]; ++n)
                for (i64 k = F; k < wide_F; ++k) act[n * wide_F + k] = 0;
    });

    const i64 rows_D = chunk_columns(crew, D, 1, 64);
    each(crew, (D + rows_D - 1) / rows_D, [&](i64 index, i64) {
        const i64 from = index * rows_D, to = min(D, from + rows_D);
        for (i64 t = 0; t < p.tokens; ++t)
            for (i64 d = from; d < to; ++d) sums[t * D + d] = 0;
        for (i64 a = 0; a < active; ++a) {
            const i64 e = used[a];
            for (i64 n = p.start[e]; n < p.start[e + 1]; n += MOST_TOKENS) {
                const i64 tokens = min(MOST_TOKENS, p.start[e + 1] - n);
                const float *values[MOST_TOKENS];
                for (i64 m = 0; m < tokens; ++m) values[m] = act + (n + m) * wide_F;
                for (i64 d = from; d < to; d += AT_ONCE) {
                    const i64 rows = min(AT_ONCE, to - d);
                    float found[AT_ONCE][MOST_TOKENS];
                    dots_some<N>(rows, tokens, w2, e * D + d, e * D + to, values, found);
                    for (i64 m = 0; m < tokens; ++m) {
                        float *sum = sums + (p.unit ? p.unit[n + m] : n + m) * D + d;
                        for (i64 r = 0; r < rows; ++r) sum[r] += (p.score ? p.score[n + m] : 1.0F) * found[r][m];
                    }
                }
            }
        }
        if constexpr (sizeof(T) != 4)
            for (i64 t = 0; t < p.tokens; ++t)
                for (i64 d = from; d < to; d += N)
                    store<N>(static_cast<T *>(p.out) + t * D + d, load<N>(sums + t * D + d, to - d), to - d);
    });
}

template <std::size_t N, class T, class W>
void forward_few(Crew &crew, const Problem &p) {
    stream<N, T>(crew, p, Plain<N, W>{static_cast<const W *>(p.w13), p.model},
                 Plain<N, W>{static_cast<const W *>(p.w2), p.hidden});
}

template <std::size_t N, class T, template <std::size_t> class Codes>
void forward_coded(Crew &crew, const Problem &p) {
    stream<N, T>(crew, p, Codes<N>{{p.w13, p.scale13, up_to(p.model, BLOCK), p.group}},
                 Codes<N>{{p.w2, p.scale2, up_to(p.hidden, BLOCK), p.group}});
}

}  // namespace
}  // namespace gl::experts
