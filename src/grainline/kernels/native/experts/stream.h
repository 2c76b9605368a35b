// The same as forward.h for a few entries per expert: every weight that is needed is read once, as it lies, at memory's
// speed, by all workers from the first moment to the last.
#pragma once

#include "codes.h"
#include "shares.h"
#include "work.h"

namespace gl::experts {
namespace {

constexpr i64 HIDDEN_ROWS = 64;        // of gate, and of up, that a task makes
constexpr i64 BYTES_EACH = 32 * 1024;  // weights that are worth a worker

template <std::size_t N, class T, class Weights>
struct Few {
    const Problem &p;
    const Weights &w13, &w2;
    const i64 workers, wide_D, wide_F;
    i64 active, *used, *counters;
    float *wide, *act, *sums, *bench;  // of tokens, of entries, of tokens; of workers
    char *x, *a;                       // tokens' values and entries' act, prepared

    static constexpr i64 STAGES = 4, n = N;
    i64 bench_floats() const { return MOST_TOKENS * (2 * HIDDEN_ROWS + up_to(p.model, 64) + 3 * ROWS); }
    const char *values_of(i64 entry) const { return x + (p.unit ? p.unit[entry] : entry) * w13.token_bytes(); }

    // Rows of w13, and of w2, that a task reads together.
    i64 hidden_blocks() const { return (p.hidden + HIDDEN_ROWS - 1) / HIDDEN_ROWS; }
    i64 model_rows() const {
        const i64 tasks = TASKS_EACH * workers;
        return up_to((p.model + tasks - 1) / tasks, 2 * ROWS);
    }
    Run gate_run(i64 task) const {
        const i64 f = task % hidden_blocks() * HIDDEN_ROWS;
        return w13.run(2 * used[task / hidden_blocks()], f, min(HIDDEN_ROWS, p.hidden - f));
    }
    Run down_run(i64 task, i64 index) const {
        const i64 d = task * model_rows();
        return w2.run(used[index], d, min(model_rows(), p.model - d));
    }

    void widen(i64 t) const {
        const T *from = static_cast<const T *>(p.x) + t * p.model;
        float *to = wide + t * wide_D;
        for (i64 k = 0; k < wide_D; k += n) store<N>(to + k, load<N>(from + k, p.model - k));
        w13.prepare(to, x + t * w13.token_bytes());
    }

    // act = silu(gate) · up for some hidden columns of an expert
    void hidden(i64 task, Run after, float *gate, float *up) const {
        const i64 F = p.hidden, e = used[task / hidden_blocks()], f = task % hidden_blocks() * HIDDEN_ROWS;
        const i64 rows = min(HIDDEN_ROWS, F - f), stride = HIDDEN_ROWS + ROWS;
        const Run up_run = w13.run(2 * e + 1, f, rows);
        for (i64 entry = p.start[e]; entry < p.start[e + 1]; entry += MOST_TOKENS) {
            const i64 tokens = min(MOST_TOKENS, p.start[e + 1] - entry);
            const char *values[MOST_TOKENS];
            for (i64 m = 0; m < tokens; ++m) values[m] = values_of(entry + m);
            products(tokens, w13, 2 * e, f, rows, up_run, values, gate, stride);
            products(tokens, w13, 2 * e + 1, f, rows, after, values, up, stride);
            for (i64 m = 0; m < tokens; ++m)
                for (i64 r = 0; r < rows; r += n) {
                    const Floats<N> g = load<N>(gate + m * stride + r), u = load<N>(up + m * stride + r);
                    store<N>(act + (entry + m) * wide_F + f + r, g * sigmoid<N>(g) * u, rows - r);
                    if (!p.h) continue;
                    T *h = static_cast<T *>(p.h) + (entry + m) * 2 * F + f + r;
                    store<N>(h, g, rows - r), store<N>(h + F, u, rows - r);
                }
        }
    }

    // Some columns of the output, of all tokens. Experts are added in order.
    void down(i64 task, i64 next_task, float *found) const {
        const i64 D = p.model, from = task * model_rows(), rows = min(model_rows(), D - from);
        const i64 stride = up_to(D, 64) + ROWS;
        for (i64 t = 0; t < p.tokens; ++t)
            for (i64 d = from; d < from + rows; ++d) sums[t * D + d] = 0;
        for (i64 index = 0; index < active; ++index) {
            const i64 e = used[index];
            Run next = down_run(task, index);
            if (index + 1 < active) next = down_run(task, index + 1);
            else if (next_task >= 0) next = down_run(next_task, 0);
            for (i64 entry = p.start[e]; entry < p.start[e + 1]; entry += MOST_TOKENS) {
                const i64 tokens = min(MOST_TOKENS, p.start[e + 1] - entry);
                const char *values[MOST_TOKENS];
                for (i64 m = 0; m < tokens; ++m) values[m] = a + (entry + m) * w2.token_bytes();
                products(tokens, w2, e, from, rows, next, values, found, stride);
                for (i64 m = 0; m < tokens; ++m) {
                    float *sum = sums + (p.unit ? p.unit[entry + m] : entry + m) * D + from;
                    const Floats<N> by = spread<N>(p.score ? p.score[entry + m] : 1.0F);
                    for (i64 r = 0; r < rows; r += n)
                        store<N>(sum + r, load<N>(sum + r, rows - r) + by * load<N>(found + m * stride + r), rows - r);
                }
            }
        }
        if constexpr (sizeof(T) != 4)
            for (i64 t = 0; t < p.tokens; ++t)
                for (i64 d = from; d < from + rows; d += n)
                    store<N>(static_cast<T *>(p.out) + t * D + d, load<N>(sums + t * D + d, from + rows - d),
                             from + rows - d);
    }

    void work(const Crew &crew, i64 worker) const {
        Shares shares(counters, workers, worker);
        float *gate = bench + worker * bench_floats(), *up = gate + MOST_TOKENS * (HIDDEN_ROWS + ROWS);
        float *found = up + MOST_TOKENS * (HIDDEN_ROWS + ROWS);
        const i64 blocks_D = (p.model + model_rows() - 1) / model_rows();
        shares.stage(crew, p.tokens, [&](i64 t, i64) { widen(t); });
        shares.stage(crew, active * hidden_blocks(), [&](i64 task, i64 next) {
            hidden(task, next >= 0 ? gate_run(next) : down_run(shares.first(blocks_D), 0), gate, up);
        });
        shares.stage(crew, p.entries,
                     [&](i64 entry, i64) { w2.prepare(act + entry * wide_F, a + entry * w2.token_bytes()); });
        shares.stage(crew, blocks_D, [&](i64 task, i64 next) { down(task, next, found); });
    }
};

template <std::size_t N, class T, class Weights>
void stream(Crew &crew, const Problem &p, const Weights &w13, const Weights &w2) {
    i64 active = 0;
    for (i64 e = 0; e < p.experts; ++e) active += p.start[e + 1] > p.start[e];
    const i64 bytes = active * (2 * w13.bytes() + w2.bytes());
    const i64 workers = min(crew.workers(), 1 + bytes / BYTES_EACH), wide_D = up_to(p.model, BLOCK);
    Few<N, T, Weights> few{p, w13, w2, workers, wide_D, up_to(p.hidden, BLOCK), active, {}, {}, {}, {}, {}, {}, {}, {}};
    const i64 counters = Shares::counters(few.STAGES, workers);
    Memory memory(crew, crew.workers(),
                  4 * (p.tokens * (wide_D + p.model) + p.entries * few.wide_F + workers * few.bench_floats()) +
                      p.tokens * w13.token_bytes() + p.entries * w2.token_bytes() + 8 * (p.experts + counters) + 1024);
    few.used = memory.take<i64>(active);
    few.counters = memory.take<i64>(counters);
    few.wide = memory.take<float>(p.tokens * wide_D);
    few.act = memory.take<float>(p.entries * few.wide_F);
    few.sums = sizeof(T) == 4 ? static_cast<float *>(p.out) : memory.take<float>(p.tokens * p.model);
    few.x = memory.take<char>(p.tokens * w13.token_bytes());
    few.a = memory.take<char>(p.entries * w2.token_bytes());
    few.bench = memory.take<float>(workers * few.bench_floats());
    for (i64 e = 0, at = 0; e < p.experts; ++e)
        if (p.start[e + 1] > p.start[e]) few.used[at++] = e;
    __builtin_memset(few.counters, 0, static_cast<std::size_t>(8 * counters));
    if (few.wide_F > p.hidden)  // what the depth is rounded up by
        __builtin_memset(few.act, 0, static_cast<std::size_t>(4 * p.entries * few.wide_F));
    each(crew, workers, [&](i64 worker, i64) { few.work(crew, worker); });
}

template <std::size_t N, class T, class W>
void forward_few(Crew &crew, const Problem &p) {
    using Weights = Plain<N, W>;
    stream<N, T>(crew, p, Weights{static_cast<const W *>(p.w13), p.hidden, p.model},
                 Weights{static_cast<const W *>(p.w2), p.model, p.hidden});
}

template <std::size_t N, class T, class Kind>
void forward_coded(Crew &crew, const Problem &p) {
    stream<N, T>(crew, p, Kind(p.w13, p.scale13, p.hidden, up_to(p.model, BLOCK), p.group),
                 Kind(p.w2, p.scale2, p.model, up_to(p.hidden, BLOCK), p.group));
}

}  // namespace
}  // namespace gl::experts
