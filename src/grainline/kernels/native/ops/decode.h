// Attention of one query per sequence: keys and values are read once, in the order in which they lie.
#pragma once

#include <math.h>

#include "simd.h"

namespace gl {
namespace {

constexpr std::size_t BLOCK = 32;      // tokens whose scores are made before their values are read
constexpr std::size_t MOST_HEADS = 256;  // of queries

// Scores of one key by N heads' queries.
template <std::size_t N, class T>
inline void dots(const float *q, std::size_t width, const T *key, std::size_t size, float scale, float *score,
                 std::size_t stride) {
    F total[N] = {};
    std::size_t i = 0;
    for (; i + W <= size; i += W) {
        const F k = load(key + i);
        for (std::size_t n = 0; n < N; ++n) total[n] += k * load(q + n * width + i);
    }
    if (i < size) {
        const F k = load(key + i, size - i);
        for (std::size_t n = 0; n < N; ++n) total[n] += k * load(q + n * width + i);
    }
    float found[N];
    if constexpr (N == 4) {
        sum_four(total, found);
    } else {
        for (std::size_t n = 0; n < N; ++n) found[n] = sum(total[n]);
    }
    for (std::size_t n = 0; n < N; ++n) score[n * stride] = found[n] * scale;
}

// out[n] += Σ tokens weight[n] · value, for P packs of N heads.
template <std::size_t N, std::size_t P, class T>
inline void weigh(const T *value, std::size_t token_stride, std::size_t tokens, const float *weight, float *out,
                  std::size_t out_stride) {
    F total[N][P];
    for (std::size_t n = 0; n < N; ++n)
        for (std::size_t p = 0; p < P; ++p) total[n][p] = load(out + n * out_stride + p * W);
    for (std::size_t t = 0; t < tokens; ++t, value += token_stride) {
        F v[P];
        for (std::size_t p = 0; p < P; ++p) v[p] = load(value + p * W);
        for (std::size_t n = 0; n < N; ++n)
            for (std::size_t p = 0; p < P; ++p) total[n][p] += v[p] * weight[n * BLOCK + t];
    }
    for (std::size_t n = 0; n < N; ++n)
        for (std::size_t p = 0; p < P; ++p) store(out + n * out_stride + p * W, total[n][p]);
}

template <std::size_t N, class T>
inline void weigh_heads(const T *value, std::size_t token_stride, std::size_t tokens, const float *weight, float *out,
                        std::size_t out_stride, std::size_t size) {
    constexpr std::size_t P = GL_LANES == 16 ? 4 : 2;  // as many sums as there are registers for
    std::size_t i = 0;
    for (; i + P * W <= size; i += P * W) weigh<N, P>(value + i, token_stride, tokens, weight, out + i, out_stride);
    for (; i + W <= size; i += W) weigh<N, 1>(value + i, token_stride, tokens, weight, out + i, out_stride);
    for (; i < size; ++i)
        for (std::size_t n = 0; n < N; ++n)
            for (std::size_t t = 0; t < tokens; ++t)
                out[n * out_stride + i] += load(value + t * token_stride + i, 1)[0] * weight[n * BLOCK + t];
}

// The heads of a group in fours, then one by one.
template <class Four, class One>
inline void in_fours(std::size_t n, const Four &four, const One &one) {
    std::size_t i = 0;
    for (; i + 4 <= n; i += 4) four(i);
    for (; i < n; ++i) one(i);
}

template <class T>
inline void fetch(const T *from, std::size_t n) {
    const char *at = reinterpret_cast<const char *>(from), *end = reinterpret_cast<const char *>(from + n);
    for (; at < end; at += 64) __builtin_prefetch(at, 0, 2);
}

// Tasks [begin, end) of B · splits: each a run of `split` tokens of one sequence, for all heads.
template <class T>
void decode(const T *k, const T *v, const Decode &how, std::size_t begin, std::size_t end) {
    const std::size_t shared = how.heads / how.groups, row = 2 + how.v_size;
    float score[MOST_HEADS * BLOCK];
    for (std::size_t task = begin; task < end; ++task) {
        const std::size_t b = task / how.splits;
        const std::size_t first = task % how.splits * how.split;
        const std::size_t length = how.length ? static_cast<std::size_t>(how.length[b]) : how.page_tokens;
        const std::size_t last = first + how.split < length ? first + how.split : length;
        const float *q = how.q + b * how.heads * how.width;
        float *state = how.partial + task * how.heads * row;
        for (std::size_t head = 0; head < how.heads; ++head) {
            float *of = state + head * row;
            std::memset(of, 0, row * sizeof(float));
            of[0] = -INFINITY;
        }
        for (std::size_t at = first; at < last;) {
            const std::size_t inside = at % how.page_tokens, page_left = how.page_tokens - inside;
            std::size_t tokens = last - at < BLOCK ? last - at : BLOCK;
            tokens = tokens < page_left ? tokens : page_left;
            const std::int64_t *table = how.table + b * how.table_stride;
            const auto page = how.length ? static_cast<std::size_t>(table[at / how.page_tokens]) : b;
            const T *keys = k + page * how.k.page_stride + inside * how.k.token_stride;
            const T *values = v + page * how.v.page_stride + inside * how.v.token_stride;
            const std::size_t scales = (page * how.page_tokens + inside) * how.groups;
            for (std::size_t t = 0; t < tokens; ++t) {
                for (std::size_t g = 0; g < how.groups; ++g) {
                    const T *key = keys + t * how.k.token_stride + g * how.k.head_stride;
                    fetch(values + t * how.v.token_stride + g * how.v.head_stride, how.v_size);
                    const float scale = how.k.scale ? how.k.scale[scales + t * how.groups + g] : 1.0F;
                    const float *queries = q + g * shared * how.width;
                    float *to = score + g * shared * BLOCK + t;
                    in_fours(
                        shared,
                        [&](std::size_t n) {
                            dots<4>(queries + n * how.width, how.width, key, how.k_size, scale, to + n * BLOCK, BLOCK);
                        },
                        [&](std::size_t n) {
                            dots<1>(queries + n * how.width, how.width, key, how.k_size, scale, to + n * BLOCK, BLOCK);
                        });
                }
            }
            // What was summed before is weighed anew where a larger score has come.
            for (std::size_t head = 0; head < how.heads; ++head) {
                float *of = state + head * row, *weight = score + head * BLOCK;
                for (std::size_t t = tokens; t < BLOCK; ++t) weight[t] = -INFINITY;
                F most = F{} - INFINITY, total{};
                for (std::size_t t = 0; t < BLOCK; t += W) most = larger(most, load(weight + t));
                const float before = of[0], last_top = largest(most), top = last_top > before ? last_top : before;
                for (std::size_t t = 0; t < BLOCK; t += W) {
                    const F e = exp_of(load(weight + t) - top);
                    total += e;
                    store(weight + t, e);
                }
                of[0] = top;
                if (top > before) {
                    const float by = expf(before - top);
                    of[1] *= by;
                    each_pack(how.v_size, [&](std::size_t i, auto get, auto put) { put(of + 2 + i, get(of + 2 + i) * by); });
                }
                of[1] += sum(total);
                if (how.v.scale)
                    for (std::size_t t = 0; t < tokens; ++t)
                        weight[t] *= how.v.scale[scales + t * how.groups + head / shared];
            }
            for (std::size_t g = 0; g < how.groups; ++g) {
                const T *value = values + g * how.v.head_stride;
                const float *weight = score + g * shared * BLOCK;
                float *to = state + g * shared * row + 2;
                in_fours(
                    shared,
                    [&](std::size_t n) {
                        weigh_heads<4>(value, how.v.token_stride, tokens, weight + n * BLOCK, to + n * row, row, how.v_size);
                    },
                    [&](std::size_t n) {
                        weigh_heads<1>(value, how.v.token_stride, tokens, weight + n * BLOCK, to + n * row, row, how.v_size);
                    });
            }
            at += tokens;
        }
    }
}

}  // namespace
}  // namespace gl
