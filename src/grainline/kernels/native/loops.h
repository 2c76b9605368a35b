// The algorithms, once: `transform` and `sum` over any element type, any width of pack and any kind of store.
//
// Included by one file per instruction set, each compiled with its own flags. Everything lies in an unnamed namespace:
// a template that two of them share would be kept once, and perhaps in the form that this processor can't run.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "table.h"

namespace gl {
namespace {

// Nothing may be moved across it. It also keeps compilers from replacing a loop by memcpy, whose stores, for large
// arrays, are of another kind than those that were asked for; and from computing a repeated sum once.
inline void barrier() { asm volatile("" ::: "memory"); }

// A pack: as many elements as one instruction takes. One element is a pack of width 1.
template <class T, std::size_t Bytes>
using Pack __attribute__((vector_size(Bytes))) = T;

template <class V, class T>
inline V load(const T *from) {
    V found;
    __builtin_memcpy(&found, from, sizeof(V));  // any alignment
    return found;
}

template <class V, class T>
inline V spread(T value) {
    if constexpr (sizeof(V) == sizeof(T)) {
        return value;
    } else {
        V found;
        for (std::size_t i = 0; i < sizeof(V) / sizeof(T); ++i) found[i] = value;
        return found;
    }
}

// Stores. An ordinary one first reads the line that it writes into; a streaming one goes past the caches.
struct Ordinary {
    template <class T, class V>
    static void put(T *to, V value) { __builtin_memcpy(to, &value, sizeof(V)); }
    static void finish() {}
};

struct Streaming {
    template <class T, class V>
    static void put(T *to, V value) {  // `to` is aligned to the pack
#if defined(__clang__)
        __builtin_nontemporal_store(value, reinterpret_cast<V *>(to));
#elif defined(__x86_64__)
        if constexpr (sizeof(V) == 16) _mm_stream_si128(reinterpret_cast<__m128i *>(to), (__m128i)value);
#ifdef __AVX__
        if constexpr (sizeof(V) == 32) _mm256_stream_si256(reinterpret_cast<__m256i *>(to), (__m256i)value);
#endif
#ifdef __AVX512F__
        if constexpr (sizeof(V) == 64) _mm512_stream_si512(reinterpret_cast<__m512i *>(to), (__m512i)value);
#endif
#else
        Ordinary::put(to, value);
#endif
    }
    static void finish() {
#ifdef __x86_64__
        _mm_sfence();
#endif
    }
};

#if defined(__clang__) || defined(__x86_64__)
constexpr bool CAN_STREAM = true;
#else
constexpr bool CAN_STREAM = false;
#endif

// Bodies: what is computed of one element or of one pack. `s` is the scalar.
struct Fill {
    static constexpr int inputs = 0;
    template <class V> V operator()(V, V, V s) const { return s; }
};
struct Copy {
    static constexpr int inputs = 1;
    template <class V> V operator()(V x, V, V) const { return x; }
};
struct Scale {
    static constexpr int inputs = 1;
    template <class V> V operator()(V x, V, V s) const { return s * x; }
};
struct Add {
    static constexpr int inputs = 2;
    template <class V> V operator()(V x, V y, V) const { return x + y; }
};
struct Triad {
    static constexpr int inputs = 2;
    template <class V> V operator()(V x, V y, V s) const { return x + s * y; }
};

template <class Body, class V, class Store, class T>
inline void step(const T *x, const T *y, V s, T *out) {
    V first{}, second{};
    if constexpr (Body::inputs > 0) first = load<V>(x);
    if constexpr (Body::inputs > 1) second = load<V>(y);
    Store::put(out, Body{}(first, second, s));
    barrier();
}

// out[i] = body(x[i], y[i], s): elements until `out` is aligned, packs, and elements again.
template <class Body, class T, class V, class Store>
void transform(const T *x, const T *y, T s, T *out, std::size_t n) {
    constexpr std::size_t width = sizeof(V) / sizeof(T);
    std::size_t i = 0;
    if constexpr (width > 1) {
        const std::size_t past = reinterpret_cast<std::uintptr_t>(out) % sizeof(V) / sizeof(T);
        const std::size_t head = past == 0 ? 0 : width - past;
        for (; i < head && i < n; ++i) step<Body, T, Ordinary>(x + i, y + i, s, out + i);
        const V wide = spread<V>(s);
        for (; i + width <= n; i += width) step<Body, V, Store>(x + i, y + i, wide, out + i);
        Store::finish();
    }
    for (; i < n; ++i) step<Body, T, Ordinary>(x + i, y + i, s, out + i);
}

// Σ x: within a run of RUN elements in packs, side by side, for speed; over the runs in double, for accuracy. The order
// of the additions depends on n and the width only.
template <class T, class V>
double sum(const T *x, std::size_t n) {
    constexpr std::size_t RUN = 1 << 14, width = sizeof(V) / sizeof(T), at_once = width > 1 ? 8 : 1;
    double total = 0;
    for (std::size_t begin = 0; begin < n; begin += RUN) {
        const std::size_t end = n - begin < RUN ? n : begin + RUN;
        V lanes[at_once] = {};
        std::size_t i = begin;
        for (; i + at_once * width <= end; i += at_once * width)
            for (std::size_t k = 0; k < at_once; ++k) lanes[k] += load<V>(x + i + k * width);
        for (std::size_t k = 1; k < at_once; ++k) lanes[0] += lanes[k];
        T rest[width];
        __builtin_memcpy(rest, lanes, sizeof rest);
        for (std::size_t k = 1; k < width; ++k) rest[0] += rest[k];
        for (; i < end; ++i) rest[0] += x[i];
        total += static_cast<double>(rest[0]);
        barrier();
    }
    return total;
}

template <class T, class V, class Store>
constexpr Loops<T> loops() {
    return {
        {transform<Fill, T, V, Store>, transform<Copy, T, V, Store>, transform<Scale, T, V, Store>,
         transform<Add, T, V, Store>, transform<Triad, T, V, Store>},
        sum<T, V>,
    };
}

template <class T, std::size_t Bytes>
constexpr ByKind<T> by_kind() {
    return {{loops<T, T, Ordinary>(), loops<T, Pack<T, Bytes>, Ordinary>(), loops<T, Pack<T, Bytes>, Streaming>()}};
}

template <std::size_t Bytes>
constexpr InstructionSet instruction_set(const char *name) {
    return {name, Bytes, CAN_STREAM, by_kind<float, Bytes>(), by_kind<double, Bytes>()};
}

}  // namespace
}  // namespace gl
