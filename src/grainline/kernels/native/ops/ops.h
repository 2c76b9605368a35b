// The table of one instruction set.
#pragma once

#include "best.h"
#include "decode.h"
#include "loss.h"
#include "norm.h"

namespace gl {
namespace {

template <class T>
constexpr OpsOf<T> ops_of() {
    return {norm<T>, norm_back<T>, rotate<T>, cross_entropy<T>, decode<T>};
}

constexpr Ops ops(const char *name) { return {name, ops_of<float>(), ops_of<Bf16>(), decode<std::int8_t>, best}; }

}  // namespace
}  // namespace gl
