// Packs of words: what one instruction takes. A word has 32 bits: a float, or two bfloat16 that are neighbours in depth.
//
// Everything lies in an unnamed namespace: it is compiled once per instruction set.
#pragma once

#include <cstdint>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "problem.h"

namespace gl::experts {
namespace {

struct bf16 {
    std::uint16_t bits;
};
using u32 = std::uint32_t;

template <class T, std::size_t N>
using Pack __attribute__((vector_size(N * sizeof(T)))) = T;

template <std::size_t N> using Floats = Pack<float, N>;
template <std::size_t N> using Words = Pack<u32, N>;
template <std::size_t N> using Halves = Pack<std::uint16_t, N>;

template <class V>
inline V load_as(const void *from) {
    V found;
    __builtin_memcpy(&found, from, sizeof(V));
    return found;
}
template <class V>
inline void store_as(void *to, V value) { __builtin_memcpy(to, &value, sizeof(V)); }

template <std::size_t N> inline Floats<N> load(const float *from) { return load_as<Floats<N>>(from); }
template <std::size_t N> inline Floats<N> load(const bf16 *from) {
    return (Floats<N>)(__builtin_convertvector(load_as<Halves<N>>(from), Words<N>) << 16);
}

// To the nearest, ties to even; a NaN stays one.
template <std::size_t N>
inline Words<N> rounded(Floats<N> value) {
    const Words<N> bits = (Words<N>)value, up = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words<N> bad = (Words<N>)(value != value);
    return (up & ~bad) | (((bits >> 16) | 0x40u) & bad);
}
template <std::size_t N> inline void store(float *to, Floats<N> value) { store_as(to, value); }
template <std::size_t N> inline void store(bf16 *to, Floats<N> value) {
    store_as(to, __builtin_convertvector(rounded<N>(value), Halves<N>));
}

// The first `count` elements; the others are 0, and aren't read or written.
template <std::size_t N, class T>
inline Floats<N> load(const T *from, i64 count) {
    if (count >= static_cast<i64>(N)) return load<N>(from);
    T some[N] = {};
    for (i64 i = 0; i < count; ++i) some[i] = from[i];
    return load<N>(some);
}
template <std::size_t N, class T>
inline void store(T *to, Floats<N> value, i64 count) {
    if (count >= static_cast<i64>(N)) return store<N>(to, value);
    T some[N];
    store<N>(some, value);
    for (i64 i = 0; i < count; ++i) to[i] = some[i];
}

// Neighbouring values, past the caches where they fill whole lines: gradients of weights are written once, and not read
// for a while.
template <std::size_t N>
inline void store_past(float *to, const float *from, i64 count) {
    i64 i = 0;
#ifdef __AVX512F__
    if (reinterpret_cast<std::uintptr_t>(to) % 64 == 0)
        for (; i + 16 <= count; i += 16) _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
#endif
    for (; i < count; i += N) store<N>(to + i, load<N>(from + i, count - i), count - i);
}
template <std::size_t N>
inline void store_past(bf16 *to, const float *from, i64 count) {
    i64 i = 0;
#ifdef __AVX512F__
    if (reinterpret_cast<std::uintptr_t>(to) % 64 == 0)
        for (; i + 32 <= count; i += 32) {
            alignas(64) bf16 line[32];
            store<16>(line, load<16>(from + i)), store<16>(line + 16, load<16>(from + i + 16));
            _mm512_stream_si512(reinterpret_cast<__m512i *>(to + i), _mm512_load_si512(line));
        }
#endif
    for (; i < count; i += N) store<N>(to + i, load<N>(from + i, count - i), count - i);
}

template <std::size_t N>
inline Floats<N> spread(float value) { return Floats<N>{} + value; }

template <std::size_t N>
inline float sum(Floats<N> value) {
    if constexpr (N == 1) {
        return value[0];
    } else {
        Floats<N / 2> halves[2];
        __builtin_memcpy(halves, &value, sizeof value);
        return sum<N / 2>(halves[0] + halves[1]);
    }
}

// eˣ to a unit or two in the last place: 2ⁿ · a polynomial in the rest. NaN stays NaN.
template <std::size_t N>
inline Floats<N> exp(Floats<N> x) {
    const Floats<N> low = spread<N>(-87.0F), high = spread<N>(88.0F), magic = spread<N>(12582912.0F);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Floats<N> shifted = x * 1.44269504F + magic, n = shifted - magic;
    const Floats<N> r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
    Floats<N> p = spread<N>(1.9875691500e-4F);
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;
    const Words<N> power = ((Words<N>)shifted - (Words<N>)magic + 127u) << 23;
    return p * (Floats<N>)power;
}
template <std::size_t N>
inline Floats<N> sigmoid(Floats<N> x) { return 1.0F / (1.0F + exp<N>(-x)); }

// One of two packs' words, by constant place: below N of the first, the others of the second.
template <std::size_t N, class Places, std::size_t... I>
inline Words<N> chosen(Words<N> a, Words<N> b, std::index_sequence<I...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Places::at(I)...);
#else
    return __builtin_shuffle(a, b, Words<N>{Places::at(I)...});
#endif
}
template <std::size_t N, std::size_t S>
struct Upper {
    static constexpr u32 at(std::size_t i) { return static_cast<u32>(i & S ? N + i - S : i); }
};
template <std::size_t N, std::size_t S>
struct Lower {
    static constexpr u32 at(std::size_t i) { return static_cast<u32>(i & S ? N + i : i + S); }
};

// An N × N block of words turned over its diagonal: blocks of half the size change places, and so on within them.
template <std::size_t N, std::size_t S = N / 2>
inline void transpose(Words<N> (&rows)[N]) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < N; ++i) {
        if (i & S) continue;
        const Words<N> a = rows[i], b = rows[i + S];
        rows[i] = chosen<N, Upper<N, S>>(a, b, std::make_index_sequence<N>{});
        rows[i + S] = chosen<N, Lower<N, S>>(a, b, std::make_index_sequence<N>{});
    }
    if constexpr (S > 1) transpose<N, S / 2>(rows);
}

// The same of N rows in memory.
template <std::size_t N>
inline void load_transposed(const char *from, i64 stride, Words<N> (&rows)[N]) {
#ifdef __AVX512F__
    if constexpr (N == 16) {  // half of the way by loads of quarters, which take another port than shuffles
        const auto quarter = [&](i64 row, i64 b) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + row * stride + 16 * b));
        };
#pragma GCC unroll 4
        for (i64 b = 0; b < 4; ++b) {
            __m512i part[4];
#pragma GCC unroll 4
            for (i64 j = 0; j < 4; ++j) {
                part[j] = _mm512_inserti32x4(_mm512_setzero_si512(), quarter(j, b), 0);
                part[j] = _mm512_inserti32x4(part[j], quarter(j + 4, b), 1);
                part[j] = _mm512_inserti32x4(part[j], quarter(j + 8, b), 2);
                part[j] = _mm512_inserti32x4(part[j], quarter(j + 12, b), 3);
            }
            const __m512i a = _mm512_maskz_unpacklo_epi32(0xffff, part[0], part[1]);
            const __m512i c = _mm512_maskz_unpackhi_epi32(0xffff, part[0], part[1]);
            const __m512i d = _mm512_maskz_unpacklo_epi32(0xffff, part[2], part[3]);
            const __m512i e = _mm512_maskz_unpackhi_epi32(0xffff, part[2], part[3]);
            rows[4 * b] = (Words<16>)_mm512_maskz_unpacklo_epi64(0xff, a, d);
            rows[4 * b + 1] = (Words<16>)_mm512_maskz_unpackhi_epi64(0xff, a, d);
            rows[4 * b + 2] = (Words<16>)_mm512_maskz_unpacklo_epi64(0xff, c, e);
            rows[4 * b + 3] = (Words<16>)_mm512_maskz_unpackhi_epi64(0xff, c, e);
        }
        return;
    }
#endif
    for (std::size_t i = 0; i < N; ++i) rows[i] = load_as<Words<N>>(from + static_cast<i64>(i) * stride);
    transpose<N>(rows);
}

}  // namespace
}  // namespace gl::experts
