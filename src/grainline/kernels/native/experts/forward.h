// y[t] = Σ score · w2 · (silu(w1 · x[t]) ⊙ (w3 · x[t])), for counts of entries that are worth a panel of each weight.
#pragma once

#include "work.h"

namespace gl::experts {
namespace {

// Act and, where it is kept, h; one task per slice and chunk of hidden columns. Half of a panel's columns are gate's, the
// other half up's.
template <class E, class T, class W>
void hidden(Crew &crew, const Problem &p, const Slices &slices) {
    constexpr i64 N = E::WIDTH;
    const i64 D = p.model, F = p.hidden, chunks = (F + HIDDEN_CHUNK - 1) / HIDDEN_CHUNK, depth = words<E>(D);
    const i64 left_size = left_words<E>(min(ROW_BLOCK, p.entries), D);
    each(crew, slices.count * chunks, [&](i64 index, i64 worker) {
        [[maybe_unused]] typename E::Session session;
        const Slice &slice = slices.of[index / chunks];
        const i64 from = index % chunks * HIDDEN_CHUNK, to = min(F, from + HIDDEN_CHUNK);
        Memory memory(crew, worker, Bench<E>::bytes(left_size, depth, E::COLUMNS));
        const Bench<E> bench(memory, left_size, depth, E::COLUMNS);
        const W *gate = static_cast<const W *>(p.w13) + slice.expert * 2 * F * D, *up = gate + F * D;
        const i64 work = steps<E>(slice.count, E::COLUMNS, depth);
        pack_left<E>(rows_of<T>(p.x, D, p, slice), D, bench.left);
        for (i64 f = from; f < to; f += N) {
            const i64 count = min(N, to - f), next = f + N;
            Ahead ahead;
            if (next < to) ahead = Ahead::of(gate + next * D, F * D, 2, min(N, to - next) * D, work);
            pack_half_turned<E>(gate + f * D, D, count, D, bench.panels, ahead);
            pack_half_turned<E>(up + f * D, D, count, D, bench.panels + N, ahead);
            in_blocks<E>(slice.count, [&](i64 first, i64 rows) {
                T *act = static_cast<T *>(p.act) + (slice.first + first) * F + f;
                T *h = p.h ? static_cast<T *>(p.h) + (slice.first + first) * 2 * F + f : nullptr;
                for (i64 r = 0; r < rows; ++r) {
                    touch<1>(act + r * F, N);
                    if (h) touch<1>(h + r * 2 * F, N), touch<1>(h + r * 2 * F + F, N);
                }
                E::product(rows, bench.left + first * STRIDE, left_rows(slice.count) * STRIDE, bench.panels, depth,
                           bench.tile, ahead);
                for (i64 r = 0; r < rows; ++r) {
                    const float *found = bench.tile + r * E::COLUMNS;
                    const auto g = load<E::WIDTH>(found), u = load<E::WIDTH>(found + N);
                    store<E::WIDTH>(act + r * F, g * sigmoid<E::WIDTH>(g) * u, count);
                    if (h) store<E::WIDTH>(h + r * 2 * F, g, count), store<E::WIDTH>(h + r * 2 * F + F, u, count);
                }
            });
        }
    });
}

template <class E, class T, class W>
void forward(Crew &crew, const Problem &p) {
    const Slices slices(crew, p);
    hidden<E, T, W>(crew, p, slices);
    const Turned<E, W> w2{static_cast<const W *>(p.w2), p.model, p.hidden};
    scatter_add<E, T>(crew, p, slices, p.act, w2, p.score, p.out);
}

}  // namespace
}  // namespace gl::experts
