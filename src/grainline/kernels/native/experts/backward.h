// Gradients as in SonicMoE (arXiv 2512.14080, section 3): from x, h and the lists alone. No product of the forward is
// made again, and none but those of the gradients: dS = ⟨dA′, A⟩ with dA′ before the score, and dW2 from A′ = s · A.
#pragma once

#include "work.h"

namespace gl::experts {
namespace {

// d_h, act (times the score) and the parts of d_score; one task per slice and chunk of hidden columns.
template <class E, class T, class W>
void hidden_gradients(Crew &crew, const Problem &p, const Slices &slices) {
    constexpr std::size_t N = E::WIDTH;
    const i64 D = p.model, F = p.hidden, chunks = (F + HIDDEN_CHUNK - 1) / HIDDEN_CHUNK, depth = words<E>(D);
    const i64 left_size = left_words<E>(min(ROW_BLOCK, p.entries), D);
    const Straight<E, W> w2{static_cast<const W *>(p.w2), F, D};
    const i64 pass = w2.pass(min(F, HIDDEN_CHUNK));
    each(crew, slices.count * chunks, [&](i64 index, i64 worker) {
        [[maybe_unused]] typename E::Session session;
        const Slice &slice = slices.of[index / chunks];
        const i64 chunk = index % chunks, from = chunk * HIDDEN_CHUNK, to = min(F, from + HIDDEN_CHUNK);
        Memory memory(crew, worker, Bench<E>::bytes(left_size, depth, pass));
        const Bench<E> bench(memory, left_size, depth, pass);
        float *d_score = p.d_score + chunk * p.entries;
        pack_left<E>(rows_of<T>(p.d_out, D, p, slice), D, bench.left);
        for (i64 n = slice.first; n < slice.first + slice.count; ++n) d_score[n] = 0;
        for (i64 begin = from; begin < to; begin += pass) {
            const i64 here = min(pass, to - begin), work = steps<E>(slice.count, here, depth);
            Ahead ahead;
            if (begin + pass < to)
                ahead = w2.ahead(slice.expert, begin + pass, min(pass, to - begin - pass), work);
            else if (index + crew.workers() < slices.count * chunks)  // most likely this worker's next task
                ahead = w2.ahead(slices.of[(index + crew.workers()) / chunks].expert, 0, min(pass, F), work);
            w2.pack(slice.expert, begin, here, bench.panels, ahead);
            for (i64 f = begin; f < begin + here; f += E::COLUMNS) {
                const i64 columns = min(E::COLUMNS, to - f);
                in_blocks<E>(slice.count, [&](i64 first, i64 rows) {
                    const i64 entry = slice.first + first;
                    const T *h_at = static_cast<const T *>(p.h) + entry * 2 * F + f;
                    T *d_h_at = static_cast<T *>(p.d_h) + entry * 2 * F + f, *act_at = static_cast<T *>(p.act) + entry * F + f;
                    for (i64 r = 0; r < rows; ++r) {
                        touch<0>(h_at + r * 2 * F, columns), touch<0>(h_at + r * 2 * F + F, columns);
                        touch<1>(d_h_at + r * 2 * F, columns), touch<1>(d_h_at + r * 2 * F + F, columns);
                        touch<1>(act_at + r * F, columns);
                    }
                    E::product(rows, bench.left + first * STRIDE, left_rows(slice.count) * STRIDE,
                               bench.panels + (f - begin) * depth, depth, bench.tile, ahead);
                    for (i64 r = 0; r < rows; ++r) {
                        const float score = p.score ? p.score[entry + r] : 1.0F;
                        Floats<N> dots{};
                        for (i64 j = 0; j < columns; j += N) {
                            const i64 count = columns - j;
                            const T *h = h_at + r * 2 * F + j;
                            T *d_h = d_h_at + r * 2 * F + j;
                            const auto g = load<N>(h, count), u = load<N>(h + F, count), s = sigmoid<N>(g);
                            const auto d_act = load<N>(bench.tile + r * E::COLUMNS + j), silu = g * s;
                            dots += d_act * (silu * u);
                            store<N>(act_at + r * F + j, score * (silu * u), count);
                            const auto scaled = score * d_act;
                            store<N>(d_h, scaled * u * (s + silu * (1.0F - s)), count);  // silu′ = σ + silu · (1 − σ)
                            store<N>(d_h + F, scaled * silu, count);
                        }
                        d_score[entry + r] += sum<N>(dots);
                    }
                });
            }
        }
    });
}

// d_h, act and d_score, where act is wanted; and d_x from d_h: h's columns are w13's rows.
template <class E, class T, class W>
void backward_inputs(Crew &crew, const Problem &p) {
    const Slices slices(crew, p);
    if (p.act) hidden_gradients<E, T, W>(crew, p, slices);
    if (!p.d_x) return;
    const Straight<E, W> w13{static_cast<const W *>(p.w13), p.model, 2 * p.hidden};
    scatter_add<E, T>(crew, p, slices, p.d_h, w13, nullptr, p.d_x);
}

// to [rows, columns] = leftᵀ · right over the entries of one expert, or that more, for some rows and columns of it.
template <class E, class T, class W>
void outer(Crew &crew, i64 worker, const Rows<T> &left_of, i64 rows_from, i64 rows, const Rows<T> &right_of,
           i64 columns_from, i64 columns, W *to, i64 stride, bool adds) {
    constexpr i64 N = E::WIDTH;
    const i64 depth = words<E>(left_of.count), left_size = left_words<E>(rows, left_of.count);
    if (depth == 0) {
        if (adds) return;
        for (i64 r = rows_from; r < rows_from + rows; ++r)
            __builtin_memset(to + r * stride + columns_from, 0, static_cast<std::size_t>(columns) * sizeof(W));
        return;
    }
    const i64 pass = pass_columns<E>(depth, columns);
    Memory memory(crew, worker, Bench<E>::bytes(left_size, depth, pass));
    const Bench<E> bench(memory, left_size, depth, pass);
    pack_left_turned<E>(left_of, rows_from, rows, bench.left);
    for (i64 begin = 0; begin < columns; begin += pass) {
        Ahead nothing;
        pack_panels<E>(right_of, columns_from + begin, min(pass, columns - begin), bench.panels, nothing);
        for (i64 c = begin; c < min(columns, begin + pass); c += E::COLUMNS) {
            in_blocks<E>(rows, [&](i64 first, i64 many) {
                for (i64 r = 0; adds && r < many; ++r)
                    touch<1>(to + (rows_from + first + r) * stride + columns_from + c, min(E::COLUMNS, columns - c));
                E::product(many, bench.left + first * STRIDE, left_rows(rows) * STRIDE,
                           bench.panels + (c - begin) * depth, depth, bench.tile, nothing);
                for (i64 r = 0; r < many; ++r) {
                    W *at = to + (rows_from + first + r) * stride + columns_from + c;
                    const float *found = bench.tile + r * E::COLUMNS;
                    const i64 count = min(E::COLUMNS, columns - c);
                    if (!adds) store_past<E::WIDTH>(at, found, count);
                    for (i64 j = 0; adds && j < count; j += N)
                        store<E::WIDTH>(at + j, load<E::WIDTH>(at + j, count - j) + load<E::WIDTH>(found + j), count - j);
                }
            });
        }
    }
}

// One task per expert, weight and chunk of the model's columns.
template <class E, class T, class W>
void backward_weights(Crew &crew, const Problem &p) {
    const i64 D = p.model, F = p.hidden;
    const i64 width = min(1024, chunk_columns(crew, D, 2 * p.experts, 128)), chunks = (D + width - 1) / width;
    each(crew, 2 * p.experts * chunks, [&](i64 index, i64 worker) {
        [[maybe_unused]] typename E::Session session;
        const i64 e = index / (2 * chunks), from = index % chunks * width, columns = min(width, D - from);
        const Slice slice{e, p.start[e], p.start[e + 1] - p.start[e]};
        if (index / chunks % 2) {
            if (!p.d_w2) return;
            outer<E, T, W>(crew, worker, rows_of<T>(p.d_out, D, p, slice), from, columns,
                           entries_of<T>(p.act, F, slice), 0, F, static_cast<W *>(p.d_w2) + e * D * F, F, p.adds);
        } else if (p.d_w13) {
            outer<E, T, W>(crew, worker, entries_of<T>(p.d_h, 2 * F, slice), 0, 2 * F, rows_of<T>(p.x, D, p, slice),
                           from, columns, static_cast<W *>(p.d_w13) + e * 2 * F * D, D, p.adds);
        }
    });
}

}  // namespace
}  // namespace gl::experts
