// The product that all else is made of: `rows` × a panel of COLUMNS columns, over any depth.
//
// Left: rows of words, CHUNK of them at a time, in a layout whose distances are constants: word k of row r lies at
// (k / CHUNK) · chunk_words + r · STRIDE + k % CHUNK. Panel: [depth][COLUMNS] words. STRIDE is no power of two, so
// that rows don't fall into the same set of a cache.
#pragma once

#include "simd.h"

namespace gl::experts {
namespace {

constexpr i64 CHUNK = 256, STRIDE = CHUNK + 16, STEP = 16;

// What is needed next is brought near meanwhile: `rows` rows of `lines` lines, some of them every STEP words of a product
// or of a panel that is made.
struct Ahead {
    const char *at = nullptr;
    i64 stride = 0, lines = 1, rows = 0, line = 0, each = 0;

    // A block of `rows` × `columns` elements, in the course of so many steps.
    template <class T>
    static Ahead of(const T *first, i64 stride, i64 rows, i64 columns, i64 steps) {
        const i64 lines = (columns * static_cast<i64>(sizeof(T)) + 63) / 64, all = rows * lines;
        return {reinterpret_cast<const char *>(first), stride * static_cast<i64>(sizeof(T)), lines, rows, 0,
                (all + steps - 1) / (steps ? steps : 1)};
    }
    void step() {
        for (i64 i = 0; i < each && rows > 0; ++i) {
            __builtin_prefetch(at + 64 * line, 0, 2);
            if (++line == lines) line = 0, at += stride, --rows;
        }
    }
};

struct FloatWords {
    static constexpr bool PAIRS = false;
    template <class V, std::size_t N>
    static V add(V sum, u32 a, V b) {
        float value;
        __builtin_memcpy(&value, &a, 4);
        return sum + value * b;
    }
};

#ifdef __AVX512BF16__
struct PairWords {
    static constexpr bool PAIRS = true;
    template <class V, std::size_t N>
    static V add(V sum, u32 a, V b) {
        return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
    }
};
#endif

// By multiply-and-add on packs of N words: ROWS × 2 packs of sums stay in registers.
template <class Kind, std::size_t N, int ROWS>
struct Registers {
    static constexpr bool PAIRS = Kind::PAIRS;
    static constexpr std::size_t WIDTH = N;
    static constexpr i64 COLUMNS = 2 * N, MAX_ROWS = ROWS, DEPTH = 1;

    struct Session {};  // nothing to set up

    template <int R>
    static void block(const u32 *left, i64 chunk_words, const u32 *panel, i64 depth, float *out, Ahead &ahead) {
        Floats<N> sums[R][2] = {};
        for (i64 done = 0; done < depth; done += CHUNK, left += chunk_words) {
            const i64 here = depth - done < CHUNK ? depth - done : CHUNK;
            for (i64 k = 0; k < here;) {
                ahead.step();
                for (const i64 stop = here - k < STEP ? here : k + STEP; k < stop; ++k, panel += COLUMNS) {
                    const auto b0 = load_as<Floats<N>>(panel), b1 = load_as<Floats<N>>(panel + N);
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) {
                        sums[r][0] = Kind::template add<Floats<N>, N>(sums[r][0], left[r * STRIDE + k], b0);
                        sums[r][1] = Kind::template add<Floats<N>, N>(sums[r][1], left[r * STRIDE + k], b1);
                    }
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
            store<N>(out + r * COLUMNS, sums[r][0]), store<N>(out + r * COLUMNS + N, sums[r][1]);
    }

    template <std::size_t... R>
    static void by_rows(std::index_sequence<R...>, i64 rows, const u32 *left, i64 chunk_words, const u32 *panel,
                        i64 depth, float *out, Ahead &ahead) {
        using Block = void (*)(const u32 *, i64, const u32 *, i64, float *, Ahead &);
        static constexpr Block blocks[] = {block<R + 1>...};
        blocks[rows - 1](left, chunk_words, panel, depth, out, ahead);
    }

    // out [rows][COLUMNS] = left · panel
    static void product(i64 rows, const u32 *left, i64 chunk_words, const u32 *panel, i64 depth, float *out,
                        Ahead &ahead) {
        by_rows(std::make_index_sequence<ROWS>{}, rows, left, chunk_words, panel, depth, out, ahead);
    }
};

#ifdef __AMX_BF16__
// By tiles of 16 × 16 sums, two by two.
struct Tiles {
    static constexpr bool PAIRS = true;
    static constexpr std::size_t WIDTH = 16;
    static constexpr i64 COLUMNS = 32, MAX_ROWS = 32, DEPTH = 16;  // depth is rounded up to DEPTH, with zeros

    // Tiles are a state of the thread; it is set for the time of a task.
    struct Session {
        Session() {
            struct alignas(64) {
                std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
                std::uint16_t bytes[16] = {};
                std::uint8_t rows[16] = {};
            } shape;
            for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = 16;
            _tile_loadconfig(&shape);
        }
        ~Session() { _tile_release(); }
        Session(const Session &) = delete;
        Session &operator=(const Session &) = delete;
    };

    static void product(i64 rows, const u32 *left, i64 chunk_words, const u32 *panel, i64 depth, float *out,
                        Ahead &ahead) {
        rows > 16 ? by_four(left, chunk_words, panel, depth, out, ahead)
                  : by_two(left, chunk_words, panel, depth, out, ahead);
    }

    static void by_four(const u32 *left, i64 chunk_words, const u32 *panel, i64 depth, float *out, Ahead &ahead) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (i64 k = 0; k < depth; k += STEP, panel += STEP * COLUMNS) {
            const u32 *rows = left + k / CHUNK * chunk_words + k % CHUNK;
            ahead.step();
            _tile_loadd(6, panel, COLUMNS * 4);
            _tile_loadd(4, rows, STRIDE * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, panel + 16, COLUMNS * 4);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, rows + 16 * STRIDE, STRIDE * 4);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out, COLUMNS * 4);
        _tile_stored(1, out + 16, COLUMNS * 4);
        _tile_stored(2, out + 16 * COLUMNS, COLUMNS * 4);
        _tile_stored(3, out + 16 * COLUMNS + 16, COLUMNS * 4);
    }

    static void by_two(const u32 *left, i64 chunk_words, const u32 *panel, i64 depth, float *out, Ahead &ahead) {
        _tile_zero(0);
        _tile_zero(1);
        for (i64 k = 0; k < depth; k += STEP, panel += STEP * COLUMNS) {
            ahead.step();
            _tile_loadd(6, panel, COLUMNS * 4);
            _tile_loadd(4, left + k / CHUNK * chunk_words + k % CHUNK, STRIDE * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, panel + 16, COLUMNS * 4);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, out, COLUMNS * 4);
        _tile_stored(1, out + 16, COLUMNS * 4);
    }
};
#endif

}  // namespace
}  // namespace gl::experts
