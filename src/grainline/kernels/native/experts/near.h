// Reading memory that is in no cache, once and at its full rate: one run of bytes after another, each asked for well
// before it is used, across the end of a run into the next.
#pragma once

#include "pack.h"

namespace gl::experts {
namespace {

constexpr i64 LINE = 64;
constexpr i64 NEAR = 8192;  // bytes ahead. To the second-level cache: it has room for more requests than the first

struct Run {
    const char *begin, *end, *scales;
};

class Near {
public:
    // The first NEAR bytes of `now` have been asked for by its predecessor's.
    Near(Run now, Run next) : at_(now.begin + NEAR), end_(now.end), next_(next) {
        if (at_ >= end_) at_ = next_.begin + (at_ - end_), end_ = next_.end;
    }
    // Once per line that is used.
    void step() {
        __builtin_prefetch(at_, 0, 2);
        at_ += LINE;
        if (at_ >= end_) at_ = next_.begin, end_ = next_.end;
    }

private:
    const char *at_, *end_;
    Run next_;
};

}  // namespace
}  // namespace gl::experts
