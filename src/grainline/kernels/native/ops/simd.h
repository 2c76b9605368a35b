// Packs of GL_LANES floats: what the ops are written in. Included by one file per instruction set, which says GL_LANES.
//
// Everything lies in an unnamed namespace: a function that two instruction sets share would be kept once, and perhaps in
// the form that this processor can't run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 says both of its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#include "table.h"

namespace gl {
namespace {

constexpr std::size_t W = GL_LANES;

typedef float F __attribute__((vector_size(W * 4)));
typedef std::int32_t I __attribute__((vector_size(W * 4)));
typedef std::uint32_t U __attribute__((vector_size(W * 4)));
typedef std::uint16_t Half __attribute__((vector_size(W * 2)));
typedef std::int8_t Byte __attribute__((vector_size(W)));

inline std::size_t begin_of(const Rows &rows, std::size_t row) {
    if (rows.inner == 1) return row * rows.outer_stride;
    return row / rows.inner * rows.outer_stride + row % rows.inner * rows.inner_stride;
}

template <class V, class T>
inline V bits(const T *from) {
    V found;
    std::memcpy(&found, from, sizeof found);  // any alignment
    return found;
}

inline F load(const float *from) { return bits<F>(from); }
inline F load(const Bf16 *from) { return (F)(__builtin_convertvector(bits<Half>(from), U) << 16); }
inline F load(const std::int8_t *from) {
#if GL_LANES == 16
    return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
#elif GL_LANES == 8
    return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
#else
    return __builtin_convertvector(__builtin_convertvector(bits<Byte>(from), I), F);
#endif
}

// The first n < W elements, and zeros.
template <class T>
inline F load(const T *from, std::size_t n) {
    T some[W] = {};
    std::memcpy(some, from, n * sizeof(T));
    return load(some);
}

inline void store(float *to, F value) { std::memcpy(to, &value, sizeof value); }

inline void store(Bf16 *to, F value) {  // to the nearest, ties to even
#ifdef GL_BF16
    const auto rounded = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(to, &rounded, sizeof rounded);
#else
    const U u = (U)value;
    const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Half half = __builtin_convertvector(value == value ? rounded : (U{} + 0x7fc0u), Half);
    std::memcpy(to, &half, sizeof half);
#endif
}

template <class T>
inline void store(T *to, F value, std::size_t n) {
    T some[W];
    store(some, value);
    std::memcpy(to, some, n * sizeof(T));
}

// body(i, load, store) over the packs of [0, n): the last, if it is no whole one, by loads and stores of a part.
template <class Body>
inline void each_pack(std::size_t n, const Body &body) {
    std::size_t i = 0;
    for (; i + W <= n; i += W)
        body(i, [](auto *from) { return load(from); }, [](auto *to, F value) { store(to, value); });
    if (i < n)
        body(i, [rest = n - i](auto *from) { return load(from, rest); },
             [rest = n - i](auto *to, F value) { store(to, value, rest); });
}

inline float sum(F v) {
#if GL_LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lane[W];
    std::memcpy(lane, &v, sizeof lane);
    for (std::size_t half = W / 2; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
#endif
}

// The sums of four packs at once, for a third of the shuffles.
inline void sum_four(const F *v, float *to) {
#if GL_LANES >= 8
#if GL_LANES == 16
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
#else
    const __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256 half = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
#endif
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    for (std::size_t i = 0; i < 4; ++i) to[i] = sum(v[i]);
#endif
}

inline F larger(F a, F b) { return b > a ? b : a; }  // a where b is NaN

inline float largest(F v) {
#if GL_LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float lane[W];
    std::memcpy(lane, &v, sizeof lane);
    float found = lane[0];
    for (std::size_t i = 1; i < W; ++i) found = lane[i] > found ? lane[i] : found;
    return found;
#endif
}

// eˣ for x ≤ 0, to 2 units in the last place; 0 below −87.3, where floats end; NaN of NaN. x = n · ln 2 + r, |r| ≤ ln 2 / 2.
inline F exp_of(F x) {
    constexpr float ROUND = 12582912.0F;  // 1.5 · 2²³: adding it leaves the nearest integer in the low bits
    const F shifted = x * 1.44269504F + ROUND;
    const F n = shifted - ROUND;
    const F r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
    F p = r * 1.9875691500e-4F + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;
    const F power = (F)(((U)shifted << 23) + 0x3f800000u);
    return x < -87.33F ? F{} : p * power;
}

}  // namespace
}  // namespace gl
