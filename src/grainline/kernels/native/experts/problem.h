// What the expert kernels are told: one call's tensors, and whom to share its work with.
//
// D: model size; F: an expert's hidden size; N: entries of the routing, sorted by expert; T: tokens; E: experts.
#pragma once

#include <cstdint>

namespace gl::experts {

using i64 = std::int64_t;

// The threads of a call. The files per instruction set use no templates of the standard library: the linker keeps one
// copy of each, perhaps in a form that this processor can't run.
struct Crew {
    using Task = void (*)(const void *context, i64 index, i64 worker);
    virtual i64 workers() const = 0;
    // Calls task(context, i, worker) for every i in [0, tasks), in whatever order; returns when all are done.
    virtual void run(i64 tasks, Task task, const void *context) = 0;
    // What a worker does that waits for another, for the n-th time.
    virtual void pause(i64 n) const = 0;
    // Memory of a worker (or of the caller: `workers()`), aligned to 64 bytes; it lasts until it is asked for again.
    virtual void *scratch(i64 worker, i64 bytes) = 0;

protected:
    ~Crew() = default;
};

template <class Body>
void each(Crew &crew, i64 tasks, const Body &body) {
    crew.run(tasks, [](const void *it, i64 index, i64 worker) { (*static_cast<const Body *>(it))(index, worker); }, &body);
}

enum Dtype : std::int32_t { FLOAT, BFLOAT16, INT8, INT4 };

// x and all that is made of it have one element type, the weights and their gradients another (or the same).
struct Problem {
    i64 tokens, entries, experts, model, hidden;
    const void *x;       // [T, D]
    const void *w13;     // [E, 2, F, D]: gate, up
    const void *w2;      // [E, D, F]
    const float *score;  // [N]; null: all 1
    const i64 *unit;     // [N] the token of each entry; null: entry n is token n
    const i64 *start;    // [E + 1] the first entry of each expert
    void *h;             // [N, 2F] gate and up before the nonlinearity; null: not kept
    void *act;           // [N, F] forward: silu(gate) · up; backward: that times the score
    void *out;           // [T, D]
    // Backward. A gradient that is null isn't made; d_h may lie where h does.
    const void *d_out;   // [T, D]
    void *d_h;           // [N, 2F]
    float *d_score;      // [⌈F / HIDDEN_CHUNK⌉, N] parts, to be added up in order
    void *d_x;           // [T, D]
    void *d_w13, *d_w2;  // as the weights
    // Quantised weights: codes are where the weights would be, a scale stands for `group` of them along the depth.
    const float *scale13, *scale2;  // [E, 2, F / 16, D / group, 16], [E, D / 16, F / group, 16] (codes.h)
    i64 group;
    bool adds;  // d_w13 and d_w2 are added to
};

enum Phase : std::int32_t { FORWARD, FORWARD_FEW, BACKWARD_INPUTS, BACKWARD_WEIGHTS, PHASES };
constexpr i64 HIDDEN_CHUNK = 256;  // hidden columns of a task

using Kernel = void (*)(Crew &, const Problem &);

// What one instruction set offers.
struct Path {
    const char *name;
    Kernel f32[PHASES];        // all float
    Kernel bf16[PHASES];       // all bfloat16
    Kernel mixed[PHASES];      // bfloat16 activations, float weights
    Kernel few[2][2];          // [x is bfloat16][int4] of quantised weights
};



extern const Path PORTABLE;
#ifdef __x86_64__
extern const Path AVX2, AVX512, AVX512_BF16, AMX;
#endif

}  // namespace gl::experts
