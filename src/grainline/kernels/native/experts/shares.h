// Stages of work within one launch: each worker has a share of a stage's tasks, helps the others when that is done, and
// goes on to the next stage when all are.
//
// It waits only for tasks that somebody is at, so a worker that comes late, or never, keeps nobody waiting for ever.
#pragma once

#include "pack.h"

namespace gl::experts {
namespace {

class Shares {
public:
    static constexpr i64 COUNTER = 8;  // i64s from one counter to the next: each has its line of memory

    static i64 counters(i64 stages, i64 workers) { return stages * (workers + 1) * COUNTER; }

    // `counters` of them, all 0 before any worker begins.
    Shares(i64 *counters, i64 workers, i64 worker) : counters_(counters), workers_(workers), worker_(worker) {}

    // The first task of this worker's share.
    i64 first(i64 tasks) const { return begin(tasks, worker_); }

    // task(i, next) for every i in [0, tasks); next: what this worker does probably after it, -1 for the next stage.
    template <class Task>
    void stage(const Crew &crew, i64 tasks, const Task &task) {
        i64 mine = 0;
        for (i64 i = 0; i < workers_; ++i) {
            const i64 of = (worker_ + i) % workers_, end = begin(tasks, of + 1);
            i64 *taken = counters_ + of * COUNTER;
            for (i64 at; (at = begin(tasks, of) + __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED)) < end; ++mine)
                task(at, at + 1 < end ? at + 1 : -1);
        }
        i64 *done = counters_ + workers_ * COUNTER;
        __atomic_fetch_add(done, mine, __ATOMIC_RELEASE);
        for (i64 times = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) < tasks; ++times) crew.pause(times);
        counters_ = done + COUNTER;
    }

private:
    i64 begin(i64 tasks, i64 worker) const { return worker * tasks / workers_; }

    i64 *counters_;
    const i64 workers_, worker_;
};

}  // namespace
}  // namespace gl::experts
