// Tensors into the layouts of engine.h: left rows and panels, each as it lies or turned, rows gathered on the way.
#pragma once

#include "engine.h"

namespace gl::experts {
namespace {

constexpr i64 up_to(i64 value, i64 multiple) { return (value + multiple - 1) / multiple * multiple; }
inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
inline i64 max(i64 a, i64 b) { return a > b ? a : b; }

// Words that a depth of `elements` takes.
template <class E>
constexpr i64 words(i64 elements) { return up_to(E::PAIRS ? (elements + 1) / 2 : elements, E::DEPTH); }

// Rows of a tensor: row r lies at base + index[r] · stride, or base + r · stride where there is no index.
template <class T>
struct Rows {
    const T *base;
    i64 stride, count;
    const i64 *index = nullptr;
    const T *operator[](i64 r) const { return base + (index ? index[r] : r) * stride; }
    Rows from(i64 first, i64 many) const {
        return {index ? base : base + first * stride, stride, many, index ? index + first : nullptr};
    }
    Rows columns(i64 first) const { return {base + first, stride, count, index}; }
};

// Words k … k + N of one row, of `depth` elements; 0 beyond.
template <class E, class T>
inline Words<E::WIDTH> along(const T *row, i64 k, i64 depth) {
    constexpr std::size_t N = E::WIDTH;
    if constexpr (!E::PAIRS) {
        return (Words<N>)load<N>(row + k, depth - k);
    } else {
        alignas(64) bf16 some[2 * N] = {};
        const i64 first = 2 * k, many = min(depth - first, 2 * N);
        if (many <= 0) return Words<N>{};
        if constexpr (sizeof(T) == 2) {
            if (many == 2 * N) return load_as<Words<N>>(row + first);
            for (i64 i = 0; i < many; ++i) some[i] = row[first + i];
        } else {
            store<N>(some, load<N>(row + first, many));
            if (many > static_cast<i64>(N)) store<N>(some + N, load<N>(row + first + N, many - N));
        }
        return load_as<Words<N>>(some);
    }
}

template <std::size_t N> inline Words<N> halves(const bf16 *from, i64 count) {
    if (count >= static_cast<i64>(N)) return __builtin_convertvector(load_as<Halves<N>>(from), Words<N>);
    bf16 some[N] = {};
    for (i64 i = 0; i < count; ++i) some[i] = from[i];
    return __builtin_convertvector(load_as<Halves<N>>(some), Words<N>);
}
template <std::size_t N> inline Words<N> halves(const float *from, i64 count) { return rounded<N>(load<N>(from, count)); }

// Word k of N columns, where depth runs over the rows; `count` columns are there, the others are 0.
template <class E, class T>
inline Words<E::WIDTH> across(const Rows<T> &rows, i64 k, i64 column, i64 count) {
    constexpr std::size_t N = E::WIDTH;
    if (count <= 0) return Words<N>{};
    if constexpr (!E::PAIRS) {
        return k < rows.count ? (Words<N>)load<N>(rows[k] + column, count) : Words<N>{};
    } else {
        if (2 * k >= rows.count) return Words<N>{};
        const Words<N> even = halves<N>(rows[2 * k] + column, count);
        return 2 * k + 1 < rows.count ? even | halves<N>(rows[2 * k + 1] + column, count) << 16 : even;
    }
}

// Words of a left of so many rows; some engines read rows up to a whole tile.
constexpr i64 left_rows(i64 rows) { return up_to(rows, 32) + 32; }
template <class E>
constexpr i64 left_words(i64 rows, i64 depth) { return up_to(words<E>(depth), CHUNK) / CHUNK * left_rows(rows) * STRIDE; }

// left[r][k] = rows[r][k]
template <class E, class T>
void pack_left(const Rows<T> &rows, i64 depth, u32 *left) {
    const i64 many = words<E>(depth), chunk_words = left_rows(rows.count) * STRIDE;
    constexpr i64 N = E::WIDTH;
    for (i64 r = 0; r < rows.count; ++r) {
        const T *row = rows[r], *next = rows[min(r + 1, rows.count - 1)];
        for (i64 k = 0; k < many; k += N) {  // a pack too far is within the row's stride
            __builtin_prefetch(next + k * depth / many);
            store_as(left + k / CHUNK * chunk_words + r * STRIDE + k % CHUNK, along<E>(row, k, depth));
        }
    }
}

// left[r][k] = rows[k][first + r] for r < count
template <class E, class T>
void pack_left_turned(const Rows<T> &rows, i64 first, i64 count, u32 *left) {
    const i64 many = words<E>(rows.count), chunk_words = left_rows(count) * STRIDE;
    constexpr i64 N = E::WIDTH;
    for (i64 k = 0; k < many; k += N) {
        u32 *to = left + k / CHUNK * chunk_words + k % CHUNK;
        for (i64 r = 0; r < count; r += N) {
            Words<E::WIDTH> block[N];
            for (i64 i = 0; i < N; ++i) block[i] = across<E>(rows, k + i, first + r, count - r);
            transpose<E::WIDTH>(block);
            for (i64 i = 0; i < N; ++i) store_as(to + (r + i) * STRIDE, block[i]);
        }
    }
}

// Panels side by side, each [depth][COLUMNS]: panel[k][column] = rows[k][first + column] for column < count, else 0
template <class E, class T>
void pack_panels(const Rows<T> &rows, i64 first, i64 count, u32 *panels, Ahead &ahead) {
    const i64 many = words<E>(rows.count);
    constexpr i64 N = E::WIDTH;
    for (i64 k = 0; k < many; ++k) {
        for (i64 c = 0; c < up_to(count, E::COLUMNS); c += N) {
            if (k % STEP == 0 && c % E::COLUMNS == 0) ahead.step();
            store_as(panels + (c / E::COLUMNS * many + k) * E::COLUMNS + c % E::COLUMNS,
                     across<E>(rows, k, first + c, count - c));
        }
    }
}

// Half a panel: panel[k][column] = rows[column][k] for column < count, else 0
template <class E, class T>
void pack_half_turned(const T *rows, i64 stride, i64 count, i64 depth, u32 *panel, Ahead &ahead) {
    constexpr i64 N = E::WIDTH;
    constexpr bool as_it_lies = sizeof(T) == (E::PAIRS ? 2 : 4);  // a word of the panel is one of the tensor
    const i64 many = words<E>(depth), whole = E::PAIRS ? depth / 2 : depth;
    for (i64 k = 0; k < many; k += N, panel += N * E::COLUMNS) {
        ahead.step();
        Words<E::WIDTH> block[N];
        if (as_it_lies && count >= N && k + N <= whole) {
            load_transposed<E::WIDTH>(reinterpret_cast<const char *>(rows) + 4 * k, stride * static_cast<i64>(sizeof(T)), block);
        } else {
            for (i64 i = 0; i < N; ++i) block[i] = i < count ? along<E>(rows + i * stride, k, depth) : Words<E::WIDTH>{};
            transpose<E::WIDTH>(block);
        }
        for (i64 i = 0; i < min(N, many - k); ++i) store_as(panel + i * E::COLUMNS, block[i]);
    }
}

// Blocks of at most MAX_ROWS rows whose sizes differ by one at most: use(first, count).
template <class E, class Use>
void in_blocks(i64 rows, const Use &use) {
    const i64 blocks = (rows + E::MAX_ROWS - 1) / E::MAX_ROWS;
    for (i64 b = 0; b < blocks; ++b) {
        const i64 first = b * rows / blocks;
        use(first, (b + 1) * rows / blocks - first);
    }
}

}  // namespace
}  // namespace gl::experts
