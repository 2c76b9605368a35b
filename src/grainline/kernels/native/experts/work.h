// How a call is cut into tasks: experts of unequal size into blocks of rows, hidden and model columns into chunks.
#pragma once

#include "pack.h"

namespace gl::experts {
namespace {

constexpr i64 ROW_BLOCK = 384;           // rows whose left stays in the second-level cache
constexpr i64 PANEL_WORDS = 256 * 1024;  // panels that are made together: long pieces of a weight's rows at a time
constexpr i64 TASKS_EACH = 4;            // tasks per worker at least, so that none waits for long

struct Slice {
    i64 expert, first, count;  // entries of one expert
};

// Blocks of rows of every expert, in order.
struct Slices {
    Slice *of;
    i64 count = 0;
    Slices(Crew &crew, const Problem &p) {
        i64 many = 0;
        for (i64 e = 0; e < p.experts; ++e) many += blocks(p.start[e + 1] - p.start[e]);
        of = static_cast<Slice *>(crew.scratch(crew.workers(), (many + 1) * static_cast<i64>(sizeof(Slice))));
        for (i64 e = 0; e < p.experts; ++e) {
            const i64 first = p.start[e], rows = p.start[e + 1] - first, parts = blocks(rows);
            for (i64 b = 0; b < parts; ++b) {
                const i64 from = b * rows / parts;
                of[count++] = Slice{e, first + from, (b + 1) * rows / parts - from};
            }
        }
    }
    static i64 blocks(i64 rows) { return (rows + ROW_BLOCK - 1) / ROW_BLOCK; }
};

// Columns of a chunk when `columns` are cut for all workers, where there are `others` tasks beside them.
inline i64 chunk_columns(const Crew &crew, i64 columns, i64 others, i64 least) {
    const i64 chunks = max(1, (TASKS_EACH * crew.workers() + others - 1) / max(1, others));
    return min(up_to(columns, 64), max(least, up_to((columns + chunks - 1) / chunks, 64)));
}

// Columns whose panels are made together.
template <class E>
i64 pass_columns(i64 depth, i64 columns) {
    return max(E::COLUMNS, min(up_to(columns, E::COLUMNS), PANEL_WORDS / max(1, depth) / E::COLUMNS * E::COLUMNS));
}

// A worker's memory, handed out in pieces.
struct Memory {
    char *at;
    Memory(Crew &crew, i64 worker, i64 bytes) : at(static_cast<char *>(crew.scratch(worker, bytes))) {}
    template <class T>
    T *take(i64 count) {
        char *const taken = at;
        at += up_to(count * static_cast<i64>(sizeof(T)), 64);
        return reinterpret_cast<T *>(taken);
    }
};

// What a task of products needs: a left, the panels of a pass, and a tile of results.
template <class E>
struct Bench {
    u32 *left, *panels;
    float *tile;
    static i64 bytes(i64 left_size, i64 depth, i64 pass) {
        return 4 * (left_size + depth * pass + 16 * E::COLUMNS + 32 * 32) + 1024;
    }
    Bench(Memory &memory, i64 left_size, i64 depth, i64 pass)
        : left(memory.take<u32>(left_size)), panels(memory.take<u32>(depth * pass + 16 * E::COLUMNS)),
          tile(memory.take<float>(32 * 32)) {}
};

template <class T>
Rows<T> rows_of(const void *base, i64 stride, const Problem &p, const Slice &slice) {
    return Rows<T>{static_cast<const T *>(base), stride, p.entries, p.unit}.from(slice.first, slice.count);
}
template <class T>
Rows<T> entries_of(const void *base, i64 stride, const Slice &slice) {
    return Rows<T>{static_cast<const T *>(base), stride, 0}.from(slice.first, slice.count);
}

// The lines of `columns` values from `at` on, to be written or read soon.
template <int Write, class T>
inline void touch(const T *at, i64 columns) {
    const char *from = reinterpret_cast<const char *>(at);
    for (i64 i = 0; i < columns * static_cast<i64>(sizeof(T)); i += 64) __builtin_prefetch(from + i, Write);
}

// STEPs of the products of `rows` rows and `columns` columns, and of making the panels, by halves at most.
template <class E>
i64 steps(i64 rows, i64 columns, i64 depth) {
    const i64 blocks = (rows + E::MAX_ROWS - 1) / E::MAX_ROWS, panels = (columns + E::COLUMNS - 1) / E::COLUMNS;
    return (blocks + 2) * panels * ((depth + STEP - 1) / STEP);
}

// A weight whose rows are the panel's columns: [E, columns, depth].
template <class E, class W>
struct Turned {
    const W *weights;
    i64 columns, depth;
    i64 pass(i64) const { return E::COLUMNS; }
    const W *at(i64 expert, i64 column) const { return weights + (expert * columns + column) * depth; }
    void pack(i64 expert, i64 column, i64 count, u32 *panels, Ahead &ahead) const {
        constexpr i64 N = E::WIDTH;
        pack_half_turned<E>(at(expert, column), depth, min(count, N), depth, panels, ahead);
        pack_half_turned<E>(at(expert, column + N), depth, max(0, count - N), depth, panels + N, ahead);
    }
    Ahead ahead(i64 expert, i64 column, i64 count, i64 steps) const {
        return Ahead::of(at(expert, column), 0, 1, count * depth, steps);
    }
};

// A weight whose columns are the panel's: [E, depth, columns].
template <class E, class W>
struct Straight {
    const W *weights;
    i64 columns, depth;
    i64 pass(i64 chunk) const { return pass_columns<E>(words<E>(depth), chunk); }
    const W *at(i64 expert, i64 column) const { return weights + expert * depth * columns + column; }
    void pack(i64 expert, i64 column, i64 count, u32 *panels, Ahead &ahead) const {
        pack_panels<E>(Rows<W>{at(expert, 0), columns, depth}, column, count, panels, ahead);
    }
    Ahead ahead(i64 expert, i64 column, i64 count, i64 steps) const {
        return Ahead::of(at(expert, column), columns, depth, count, steps);
    }
};

// out[unit] += factor · left · weight for whole columns of `out`, each of which belongs to one task: the sums of a token
// are made in the order of the experts, by one thread, whatever the number of threads.
template <class E, class T, class Weight>
void scatter_add(Crew &crew, const Problem &p, const Slices &slices, const void *left_rows_at, const Weight &weight,
                 const float *factor, void *out) {
    // One for each worker: the weights' rows are read in pieces of a chunk, and short ones come slowly from memory.
    const i64 columns = chunk_columns(crew, p.model, TASKS_EACH, 64), chunks = (p.model + columns - 1) / columns;
    const i64 most = min(ROW_BLOCK, p.entries), depth = words<E>(weight.depth), pass = weight.pass(columns);
    each(crew, chunks, [&](i64 chunk, i64 worker) {
        [[maybe_unused]] typename E::Session session;
        constexpr std::size_t N = E::WIDTH;
        constexpr bool direct = sizeof(T) == 4;  // sums are floats
        const i64 from = chunk * columns, width = min(columns, p.model - from), wide = up_to(width, E::COLUMNS);
        const i64 left_size = left_words<E>(most, weight.depth);
        Memory memory(crew, worker, Bench<E>::bytes(left_size, depth, pass) + (direct ? 0 : 4 * p.tokens * wide));
        const Bench<E> bench(memory, left_size, depth, pass);
        float *sums = direct ? static_cast<float *>(out) + from : memory.take<float>(p.tokens * wide);
        const i64 stride = direct ? p.model : wide;
        for (i64 t = 0; t < p.tokens; ++t)
            __builtin_memset(sums + t * stride, 0, 4 * static_cast<std::size_t>(direct ? width : wide));
        for (i64 s = 0; s < slices.count; ++s) {
            const Slice &slice = slices.of[s];
            pack_left<E>(entries_of<T>(left_rows_at, weight.depth, slice), weight.depth, bench.left);
            for (i64 begin = 0; begin < width; begin += pass) {
                const i64 here = min(pass, width - begin), work = steps<E>(slice.count, here, depth);
                Ahead ahead;
                if (begin + pass < width)
                    ahead = weight.ahead(slice.expert, from + begin + pass, min(pass, width - begin - pass), work);
                else if (s + 1 < slices.count)
                    ahead = weight.ahead(slices.of[s + 1].expert, from, min(pass, width), work);
                weight.pack(slice.expert, from + begin, here, bench.panels, ahead);
                for (i64 c = begin; c < begin + here; c += E::COLUMNS) {
                    const i64 count = min(E::COLUMNS, width - c);
                    in_blocks<E>(slice.count, [&](i64 first, i64 rows) {
                        const auto sums_of = [&](i64 r) {
                            const i64 n = slice.first + first + r;
                            return sums + (p.unit ? p.unit[n] : n) * stride + c;
                        };
                        for (i64 r = 0; r < rows; ++r) touch<1>(sums_of(r), E::COLUMNS);
                        E::product(rows, bench.left + first * STRIDE, left_rows(slice.count) * STRIDE,
                                   bench.panels + (c - begin) * depth, depth, bench.tile, ahead);
                        for (i64 r = 0; r < rows; ++r) {
                            const float by = factor ? factor[slice.first + first + r] : 1.0F;
                            float *to = sums_of(r);
                            const float *found = bench.tile + r * E::COLUMNS;
                            for (i64 j = 0; j < count; j += N)
                                store<N>(to + j, load<N>(to + j, count - j) + by * load<N>(found + j), count - j);
                        }
                    });
                }
            }
        }
        if constexpr (!direct)
            for (i64 t = 0; t < p.tokens; ++t)
                for (i64 c = 0; c < width; c += N)
                    store<N>(static_cast<T *>(out) + t * p.model + from + c, load<N>(sums + t * stride + c), width - c);
    });
}

}  // namespace
}  // namespace gl::experts
