// All kernels of one instruction set, from its engines.
#pragma once

#include "backward.h"
#include "forward.h"
#include "stream.h"

namespace gl::experts {
namespace {

#define GL_PHASES(E, T, W) \
    {forward<E, T, W>, forward_few<E::WIDTH, T, W>, backward_inputs<E, T, W>, backward_weights<E, T, W>}

// F: the engine of floats, B: that of bfloat16.
template <class F, class B>
constexpr Path path(const char *name) {
    constexpr std::size_t N = F::WIDTH;
    return {
        name,
        GL_PHASES(F, float, float),
        GL_PHASES(B, bf16, bf16),
        GL_PHASES(B, bf16, float),
        {{forward_coded<N, float, BestCodes<N, 8>>, forward_coded<N, float, BestCodes<N, 4>>},
         {forward_coded<N, bf16, BestCodes<N, 8>>, forward_coded<N, bf16, BestCodes<N, 4>>}},
    };
}

}  // namespace
}  // namespace gl::experts
