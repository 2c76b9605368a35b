// Weights as codes of 8 or 4 bits (coded.py). A word of a line belongs to one of sixteen rows, so that a line's products
// are sums of sixteen rows. In a word are codes of neighbours along the depth: four of 8 bits, or eight of 4 bits, of
// which the first four are the lower halves of its bytes; each stands for its value less 128, or 8. A scale belongs to
// each group of `group` codes of a row, [groups][16].
#pragma once

#include "rows.h"

namespace gl::experts {
namespace {

template <i64 Bits>
struct Codes {
    static constexpr bool CODED = true;
    static constexpr i64 STEP = 32 / Bits;  // codes of a word
    static constexpr std::int32_t OFFSET = 1 << (Bits - 1);
    const char *codes;
    const float *scale;
    const i64 rows, depth, group, groups, blocks;  // blocks of 16 rows

    Codes(const void *codes, const float *scale, i64 rows, i64 depth, i64 group)
        : codes(static_cast<const char *>(codes)), scale(scale), rows(rows), depth(depth), group(group),
          groups(depth / group), blocks((rows + ROWS - 1) / ROWS) {}

    i64 bytes() const { return blocks * ROWS * depth * Bits / 8; }
    const char *at(i64 block) const { return codes + block * (ROWS * depth * Bits / 8); }
    const float *scales(i64 block) const { return scale + block * (ROWS * groups); }
    i64 block(i64 matrix, i64 row) const { return matrix * blocks + row / ROWS; }
    Run run(i64 matrix, i64 first, i64 count) const {
        const i64 b = block(matrix, first);
        return {at(b), at(b + (count + ROWS - 1) / ROWS), reinterpret_cast<const char *>(scales(b))};
    }
};

template <std::size_t N, i64 Bits>
struct FloatCodes : Codes<Bits> {
    using Base = Codes<Bits>;
    using Base::Base, Base::STEP;

    i64 token_bytes() const { return this->depth * 4; }
    void prepare(const float *x, char *to) const { __builtin_memcpy(to, x, static_cast<std::size_t>(token_bytes())); }

    // Code c of each word.
    template <i64 C>
    static Floats<N> values(Words<N> words) {
        using Ints = Pack<std::int32_t, N>;
        if constexpr (Bits == 8) {
            const auto low_is_signed = (Ints)((words ^ 0x80808080u) << static_cast<u32>(24 - 8 * C));
            return __builtin_convertvector(low_is_signed >> 24, Floats<N>);
        } else {
            const Words<N> shifted = words >> static_cast<u32>(8 * (C % 4) + C / 4 * 4);
#ifdef __AVX512F__
            if constexpr (N == 16) {
                const __m512 found = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
                return (Floats<N>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)shifted, found);  // by the lowest 4 bits
            }
#endif
            return __builtin_convertvector((Ints)(shifted & 15u) - 8, Floats<N>);
        }
    }
    template <i64 M, std::size_t... C>
    static void add(std::index_sequence<C...>, Words<N> words, const char *const *x, i64 k, Floats<N> *sums) {
        const auto one = [&](Floats<N> v, i64 at) {
            for (i64 m = 0; m < M; ++m) sums[m] += v * floats(x[m])[at];
        };
        (one(values<static_cast<i64>(C)>(words), k + static_cast<i64>(C)), ...);
    }

    template <i64 M>
    void times(i64 matrix, i64 first, i64, const char *const *x, Near &near, float *to, i64 stride) const {
        constexpr i64 n = N;
        const i64 block = this->block(matrix, first);
        const char *from = this->at(block);
        const float *by = this->scales(block);
        Floats<N> total[PARTS<N>][M] = {};
        for (i64 begin = 0; begin < this->depth; begin += this->group, by += ROWS) {
            Floats<N> sums[PARTS<N>][M] = {};
            __builtin_prefetch(by + ROWS * this->groups);
            for (i64 k = begin; k < begin + this->group; k += STEP, from += LINE) {
                near.step();
                for (i64 p = 0; p < PARTS<N>; ++p) {
                    const Words<N> words = load_as<Words<N>>(from + 4 * p * n);
                    add<M>(std::make_index_sequence<static_cast<std::size_t>(STEP)>{}, words, x, k, sums[p]);
                }
            }
            for (i64 p = 0; p < PARTS<N>; ++p)
                for (i64 m = 0; m < M; ++m) total[p][m] += load<N>(by + p * n) * sums[p][m];
        }
        for (i64 p = 0; p < PARTS<N>; ++p)
            for (i64 m = 0; m < M; ++m) store<N>(to + m * stride + p * n, total[p][m]);
    }
};

#ifdef __AVX512VNNI__

constexpr float MOST = 8355000.0F;  // a little less than 127 · 65536 + 127 · 256 + 127
constexpr i64 DIGITS = 3;

// By integers: a token's values in fixed point, 24 bits of one scale, max |x| / MOST. Each is off by 2⁻²⁴ of the largest
// at most, which is what a sum in floats loses too. An integer has three digits of 8 bits from −128 to 127, so that it is
// 65536 · d0 + 256 · d1 + d2; an instruction multiplies four unsigned codes by four digits, and adds up.
//
// Prepared: a line with the scale; digits, four of each of the three by turns; for each group and digit what its sums
// begin with, since codes are more than what they stand for.
template <i64 Bits>
struct FixedCodes : Codes<Bits> {
    using Base = Codes<Bits>;
    using Base::Base, Base::STEP, Base::OFFSET;

    i64 digit_bytes() const { return up_to(this->depth * DIGITS, LINE); }
    i64 token_bytes() const { return LINE + digit_bytes() + up_to(this->groups * DIGITS * 4, LINE); }

    void prepare(const float *x, char *to) const {
        __m512 most = _mm512_setzero_ps();
        bool finite = true;
        for (i64 k = 0; k < this->depth; k += 16) {
            const __m512 v = _mm512_maskz_and_ps(0xffff, _mm512_loadu_ps(x + k), (__m512)_mm512_set1_epi32(0x7fffffff));
            most = _mm512_maskz_max_ps(0xffff, most, v);
            finite &= _mm512_cmp_ps_mask(v, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ) == 0xffff;
        }
        float largest = 0;
        for (i64 i = 0; i < 16; ++i) largest = max_of(largest, ((Floats<16>)most)[i]);
        const float unit = finite ? largest / MOST : __builtin_nanf("");
        __builtin_memcpy(to, &unit, sizeof unit);
        const __m512 by = _mm512_set1_ps(largest > 0 ? MOST / largest : 0.0F);
        auto *digits = to + LINE;
        auto *begin = reinterpret_cast<std::int32_t *>(digits + digit_bytes());
        for (i64 g = 0; g < this->groups; ++g, begin += DIGITS) {
            std::int32_t sums[DIGITS] = {};
            for (i64 k = g * this->group; k < (g + 1) * this->group; k += 16) {
                const __m512 scaled = _mm512_maskz_mul_ps(0xffff, _mm512_loadu_ps(x + k), by);
                __m512i rest = _mm512_maskz_cvtps_epi32(0xffff, scaled);
                for (i64 d = DIGITS - 1; d >= 0; --d) {
                    alignas(16) signed char four[16];
                    _mm_store_si128(reinterpret_cast<__m128i *>(four), _mm512_maskz_cvtepi32_epi8(0xffff, rest));
                    for (i64 i = 0; i < 4; ++i) __builtin_memcpy(digits + ((k / 4 + i) * DIGITS + d) * 4, four + 4 * i, 4);
                    for (i64 i = 0; i < 16; ++i) sums[d] += four[i];
                    const __m512i digit = _mm512_maskz_srai_epi32(0xffff, _mm512_maskz_slli_epi32(0xffff, rest, 24), 24);
                    rest = _mm512_maskz_srai_epi32(0xffff, _mm512_maskz_sub_epi32(0xffff, rest, digit), 8);
                }
            }
            for (i64 d = 0; d < DIGITS; ++d) begin[d] = -OFFSET * sums[d];
        }
    }
    static float max_of(float a, float b) { return a > b ? a : b; }

    // Word `at` for all rows.
    static __m512i spread_word(const char *words, i64 at) {
        std::int32_t word;
        __builtin_memcpy(&word, words + 4 * at, 4);
        return _mm512_set1_epi32(word);
    }

    template <i64 M>
    void times(i64 matrix, i64 first, i64, const char *const *x, Near &near, float *to, i64 stride) const {
        constexpr i64 CHAINS = Bits == 4 && M <= 2 ? 2 : 1;  // so that no sum waits for its predecessor
        const i64 block = this->block(matrix, first);
        const char *from = this->at(block);
        const float *by = this->scales(block);
        const __m512i low = _mm512_set1_epi8(15);
        __m512 total[M];
        for (i64 m = 0; m < M; ++m) total[m] = _mm512_setzero_ps();
        for (i64 g = 0; g < this->groups; ++g, by += ROWS) {
            __m512i sums[M][DIGITS][CHAINS];
            __builtin_prefetch(by + ROWS * this->groups);
            for (i64 m = 0; m < M; ++m)
                for (i64 d = 0; d < DIGITS; ++d) {
                    sums[m][d][CHAINS - 1] = _mm512_setzero_si512();
                    sums[m][d][0] = spread_word(x[m] + LINE + digit_bytes(), g * DIGITS + d);
                }
            for (i64 k = g * this->group; k < (g + 1) * this->group; k += STEP, from += LINE) {
                near.step();
                const __m512i codes = _mm512_loadu_si512(from);
                const __m512i a = Bits == 8 ? codes : _mm512_and_si512(codes, low);
                const __m512i b = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, codes, 4), low);
#pragma GCC unroll 4
                for (i64 m = 0; m < M; ++m)
#pragma GCC unroll 3
                    for (i64 d = 0; d < DIGITS; ++d) {
                        const char *digits = x[m] + LINE + k * DIGITS;
                        auto &sum = sums[m][d];
                        sum[0] = _mm512_dpbusd_epi32(sum[0], a, spread_word(digits, d));
                        if constexpr (Bits == 4)
                            sum[CHAINS - 1] = _mm512_dpbusd_epi32(sum[CHAINS - 1], b, spread_word(digits, DIGITS + d));
                    }
            }
            const __m512 scales = _mm512_loadu_ps(by), digit = _mm512_set1_ps(256);
            for (i64 m = 0; m < M; ++m) {
                __m512 found = _mm512_setzero_ps();
                for (i64 d = 0; d < DIGITS; ++d) {
                    __m512i sum = sums[m][d][0];
                    if constexpr (CHAINS == 2) sum = _mm512_add_epi32(sum, sums[m][d][1]);
                    found = _mm512_fmadd_ps(found, digit, _mm512_maskz_cvtepi32_ps(0xffff, sum));
                }
                total[m] = _mm512_fmadd_ps(found, scales, total[m]);
            }
        }
        for (i64 m = 0; m < M; ++m) _mm512_storeu_ps(to + m * stride, total[m] * _mm512_set1_ps(*floats(x[m])));
    }
};

template <std::size_t N, i64 Bits>
using BestCodes = FixedCodes<Bits>;
#else
template <std::size_t N, i64 Bits>
using BestCodes = FloatCodes<N, Bits>;
#endif

}  // namespace
}  // namespace gl::experts
