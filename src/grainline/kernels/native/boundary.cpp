// The C functions that Python calls. They trust their arguments: Python has checked them.
#include <cstdint>
#include <memory>
#include <vector>

#include "executor.h"
#include "table.h"
#include "team.h"

#define GL_API extern "C" __attribute__((visibility("default")))

namespace {

using gl::BlockExecutor;
using gl::InstructionSet;

// Those that this processor can run, the narrowest first.
const std::vector<const InstructionSet *> &runnable() {
    static const std::vector<const InstructionSet *> found = [] {
        std::vector<const InstructionSet *> sets = {&gl::PORTABLE};
#ifdef __x86_64__
#ifndef GL_WITHOUT_LOOPS_AVX2
        if (__builtin_cpu_supports("avx2")) sets.push_back(&gl::AVX2);
#endif
#ifndef GL_WITHOUT_LOOPS_AVX512
        if (__builtin_cpu_supports("avx512f")) sets.push_back(&gl::AVX512);
#endif
#endif
        return sets;
    }();
    return found;
}

const gl::Loops<float> &loops_of(const InstructionSet &set, int kind, float) { return set.f32.kind[kind]; }
const gl::Loops<double> &loops_of(const InstructionSet &set, int kind, double) { return set.f64.kind[kind]; }

template <class T>
void transform(BlockExecutor *executor, const gl::Loops<T> &loops, int body, const T *x, const T *y, T s, T *out,
               std::size_t n, std::int64_t repeats) {
    const auto block = [&](std::size_t, std::size_t begin, std::size_t end) {
        // A null input stays null: its loop doesn't read it.
        const T *from_x = x ? x + begin : x, *from_y = y ? y + begin : y;
        for (std::int64_t r = 0; r < repeats; ++r) loops.transform[body](from_x, from_y, s, out + begin, end - begin);
    };
    executor ? executor->bulk(n, block) : block(0, 0, n);
}

template <class T>
double sum(BlockExecutor *executor, const gl::Loops<T> &loops, const T *x, std::size_t n, std::int64_t repeats) {
    std::vector<double> partial(executor ? executor->workers() : 1);
    const auto block = [&](std::size_t worker, std::size_t begin, std::size_t end) {
        for (std::int64_t r = 0; r < repeats; ++r) partial[worker] = loops.sum(x + begin, end - begin);
    };
    executor ? executor->bulk(n, block) : block(0, 0, n);
    double total = 0;
    for (const double part : partial) total += part;  // in order of index, so that every run adds alike
    return total;
}

}  // namespace

GL_API std::int64_t gl_instruction_sets() { return static_cast<std::int64_t>(runnable().size()); }
GL_API const char *gl_instruction_set_name(std::int64_t set) { return runnable()[set]->name; }
GL_API std::int64_t gl_pack_bytes(std::int64_t set) { return static_cast<std::int64_t>(runnable()[set]->pack_bytes); }
GL_API std::int32_t gl_can_stream(std::int64_t set) { return runnable()[set]->can_stream; }

// Null where the system gives no more threads.
GL_API void *gl_executor_new(const std::int32_t *cpus, std::int64_t workers) {
    try {
        return new BlockExecutor(cpus, static_cast<std::size_t>(workers));
    } catch (...) {
        return nullptr;
    }
}

// lend: the address of OpenMP's function by which torch's threads can be borrowed (native/team.h), or null.
// Files that the compiler refused when the core was built, and whose instruction sets it therefore lacks.
#ifndef GL_LEFT_OUT
#define GL_LEFT_OUT ""
#endif
GL_API const char *gl_left_out() { return GL_LEFT_OUT; }

GL_API void *gl_team_new(std::int64_t workers, void *lend) {
    try {
        return static_cast<BlockExecutor *>(
            new gl::Team(static_cast<std::size_t>(workers), reinterpret_cast<gl::Lend>(lend)));
    } catch (...) {
        return nullptr;
    }
}

GL_API void gl_executor_free(void *executor) { delete static_cast<BlockExecutor *>(executor); }

GL_API std::int64_t gl_executor_bound(void *executor) {
    return static_cast<std::int64_t>(static_cast<BlockExecutor *>(executor)->bound());
}

// Writes (thread, cpu, begin, end) of every worker's last block.
GL_API void gl_executor_seen(void *executor, std::int64_t *rows) {
    for (const gl::Seen &seen : static_cast<BlockExecutor *>(executor)->seen()) {
        *rows++ = seen.thread, *rows++ = seen.cpu, *rows++ = seen.begin, *rows++ = seen.end;
    }
}

// executor: null computes on the calling thread. `wide`: elements are double, else float. Each worker goes over its
// block `repeats` times, without waiting for the others in between.
GL_API void gl_transform(void *executor, std::int64_t set, std::int32_t kind, std::int32_t wide, std::int32_t body,
                         const void *x, const void *y, double s, void *out, std::int64_t n, std::int64_t repeats) {
    auto *on = static_cast<BlockExecutor *>(executor);
    const auto run = [&](auto scalar) {
        using T = decltype(scalar);
        transform(on, loops_of(*runnable()[set], kind, T{}), body, static_cast<const T *>(x), static_cast<const T *>(y),
                  scalar, static_cast<T *>(out), static_cast<std::size_t>(n), repeats);
    };
    wide ? run(s) : run(static_cast<float>(s));
}

GL_API double gl_sum(void *executor, std::int64_t set, std::int32_t kind, std::int32_t wide, const void *x,
                     std::int64_t n, std::int64_t repeats) {
    auto *on = static_cast<BlockExecutor *>(executor);
    const auto run = [&](auto zero) {
        using T = decltype(zero);
        return sum(on, loops_of(*runnable()[set], kind, T{}), static_cast<const T *>(x), static_cast<std::size_t>(n),
                   repeats);
    };
    return wide ? run(0.0) : run(0.0F);
}
