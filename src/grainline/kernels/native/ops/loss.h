// Cross-entropy of rows of logits, which become their gradients in place.
#pragma once

#include <math.h>

#include "simd.h"

namespace gl {
namespace {

constexpr std::int64_t IGNORED = -100;

// loss[row] = −log softmax(logits)[label]; where it is wanted, logits ← softmax(logits) − [is the label]. Rows with the
// label IGNORED count 0 and have no gradient. The largest logit is found along with the sum, a pack at a time.
template <class T>
void cross_entropy(T *logits, const std::int64_t *label, float *loss, bool gradient, std::size_t begin,
                   std::size_t end, std::size_t size) {
    for (std::size_t row = begin; row < end; ++row) {
        T *of = logits + row * size;
        if (label[row] == IGNORED) {
            loss[row] = 0;
            if (gradient) std::memset(of, 0, size * sizeof(T));
            continue;
        }
        const std::size_t whole = size / W * W;
        F most = F{} - INFINITY;
        for (std::size_t i = 0; i < whole; i += W) most = larger(most, load(of + i));
        float top = largest(most);
        for (std::size_t i = whole; i < size; ++i) {
            const float value = load(of + i, 1)[0];
            top = value > top ? value : top;
        }
        F total[4] = {};
        std::size_t i = 0;
        for (; i + 4 * W <= size; i += 4 * W)
            for (std::size_t k = 0; k < 4; ++k) total[k] += exp_of(load(of + i + k * W) - top);
        for (; i < whole; i += W) total[0] += exp_of(load(of + i) - top);
        float z = sum((total[0] + total[1]) + (total[2] + total[3]));
        for (; i < size; ++i) z += exp_of(load(of + i, 1) - top)[0];
        const std::size_t at = static_cast<std::size_t>(label[row]);
        const float of_label = load(of + at, 1)[0];
        loss[row] = logf(z) - (of_label - top);
        if (!gradient) continue;
        const float by = 1.0F / z;
        each_pack(size, [&](std::size_t k, auto get, auto put) { put(of + k, exp_of(get(of + k) - top) * by); });
        store(of + at, F{} + (expf(of_label - top) * by - 1.0F), 1);
    }
}

}  // namespace
}  // namespace gl
