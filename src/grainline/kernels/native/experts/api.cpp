// What Python calls for the experts. Unlike the rest of the core it looks at its lists: a wrong one would be a wild read.
#include <cstring>
#include <vector>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "crew.h"

#define GL_API extern "C" __attribute__((visibility("default")))

namespace gl::experts {

namespace {

#ifdef __x86_64__
bool has_bf16_and_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 11 & 1);
}

#ifndef GL_WITHOUT_PATH_AMX
// Tiles are there, the system saves them, and lets this process use them (Linux: on demand).
bool has_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 22 & 1)) return false;
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return false;
#ifdef __linux__
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif
#endif

// Those that this processor can run, the narrowest first.
const std::vector<const Path *> &runnable() {
    static const std::vector<const Path *> found = [] {
        std::vector<const Path *> paths = {&PORTABLE};
#ifdef __x86_64__
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return paths;
#ifndef GL_WITHOUT_PATH_AVX2
        paths.push_back(&AVX2);
#endif
        for (const bool there : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512bw") != 0,
                                 __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512vl") != 0})
            if (!there) return paths;
#ifndef GL_WITHOUT_PATH_AVX512
        paths.push_back(&AVX512);
#endif
        if (!has_bf16_and_vnni()) return paths;
#ifndef GL_WITHOUT_PATH_AVX512_BF16
        paths.push_back(&AVX512_BF16);
#endif
#ifndef GL_WITHOUT_PATH_AMX
        if (has_amx()) paths.push_back(&AMX);
#endif
#endif
        return paths;
    }();
    return found;
}

Kernel kernel(const Path &path, i64 phase, i64 x_dtype, i64 weight_dtype) {
    if (weight_dtype >= INT8) return path.few[x_dtype][weight_dtype - INT8];
    if (x_dtype == FLOAT) return path.f32[phase];
    return weight_dtype == FLOAT ? path.mixed[phase] : path.bf16[phase];
}

enum Wrong : std::int64_t { NOTHING, COUNTS, UNITS, MEMORY };

}  // namespace

GL_API std::int64_t gl_experts_paths() { return static_cast<std::int64_t>(runnable().size()); }
GL_API const char *gl_experts_path_name(std::int64_t path) { return runnable()[static_cast<std::size_t>(path)]->name; }

// numbers: tokens, entries, experts, model, hidden, group, adds. tensors: the pointers of Problem, in its order from x on
// (counts where `start` is). executor: null computes on the calling thread. Returns what is wrong.
GL_API std::int64_t gl_experts_run(void *executor, std::int64_t path, std::int64_t phase, std::int64_t x_dtype,
                                   std::int64_t weight_dtype, const std::int64_t *numbers, void *const *tensors) {
    Problem p{};
    p.tokens = numbers[0], p.entries = numbers[1], p.experts = numbers[2], p.model = numbers[3];
    p.hidden = numbers[4], p.group = numbers[5], p.adds = numbers[6] != 0;
    p.x = tensors[0], p.w13 = tensors[1], p.w2 = tensors[2], p.score = static_cast<const float *>(tensors[3]);
    p.unit = static_cast<const i64 *>(tensors[4]);
    const auto *counts = static_cast<const i64 *>(tensors[5]);
    p.h = tensors[6], p.act = tensors[7], p.out = tensors[8], p.d_out = tensors[9], p.d_h = tensors[10];
    p.d_score = static_cast<float *>(tensors[11]), p.d_x = tensors[12], p.d_w13 = tensors[13], p.d_w2 = tensors[14];
    p.scale13 = static_cast<const float *>(tensors[15]), p.scale2 = static_cast<const float *>(tensors[16]);
    try {
        std::vector<i64> start(static_cast<std::size_t>(p.experts) + 1, 0);
        for (i64 e = 0; e < p.experts; ++e) {
            if (counts[e] < 0 || counts[e] > p.entries) return COUNTS;
            start[static_cast<std::size_t>(e) + 1] = start[static_cast<std::size_t>(e)] + counts[e];
        }
        if (start.back() != p.entries) return COUNTS;
        for (i64 n = 0; p.unit && n < p.entries; ++n)
            if (p.unit[n] < 0 || p.unit[n] >= p.tokens) return UNITS;
        p.start = start.data();
        thread_local Scratch scratch;
        Workers workers(static_cast<BlockExecutor *>(executor), scratch);
        kernel(*runnable()[static_cast<std::size_t>(path)], phase, x_dtype, weight_dtype)(workers, p);
    } catch (...) {
        return MEMORY;
    }
    return NOTHING;
}

}  // namespace gl::experts
