// What one instruction set offers: a loop for each body, kind of loop and element type.
#pragma once

#include <cstddef>

namespace gl {

enum { FILL, COPY, SCALE, ADD, TRIAD, BODIES };
enum { SCALAR, PACKS, PACKS_STREAMING, KINDS };

template <class T>
struct Loops {
    void (*transform[BODIES])(const T *x, const T *y, T s, T *out, std::size_t n);
    double (*sum)(const T *x, std::size_t n);
};

template <class T>
struct ByKind {
    Loops<T> kind[KINDS];
};

struct InstructionSet {
    const char *name;
    std::size_t pack_bytes;
    bool can_stream;
    ByKind<float> f32;
    ByKind<double> f64;
};

extern const InstructionSet PORTABLE;  // SSE2, NEON: what every processor of this architecture has
#ifdef __x86_64__
extern const InstructionSet AVX2, AVX512;
#endif

}  // namespace gl
