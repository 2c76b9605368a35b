#include "executor.h"

#include <chrono>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gl {
namespace {

// Longer than what a program does between two calls that follow each other. Waking a sleeping thread takes as long.
constexpr std::chrono::microseconds LINGER{50};

bool bind_to(std::int32_t cpu) {
#ifdef __linux__
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
    }
#endif
    (void)cpu;
    return false;
}

}  // namespace

std::int64_t this_thread(std::size_t worker) {
#ifdef __linux__
    (void)worker;
    return static_cast<std::int64_t>(syscall(SYS_gettid));
#else
    return static_cast<std::int64_t>(worker);
#endif
}

std::int64_t this_cpu() {
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

BlockExecutor::BlockExecutor(const std::int32_t *cpus, std::size_t workers) : seen_(workers) {
    threads_.reserve(workers);
    std::unique_lock<std::mutex> lock(mutex_);
    running_ = workers;  // each says so when it is bound
    try {
        for (std::size_t i = 0; i < workers; ++i) threads_.emplace_back([this, i, cpu = cpus[i]] { work(i, cpu); });
    } catch (...) {
        lock.unlock();
        stop();
        throw;
    }
    done_.wait(lock, [this] { return running_ == 0; });
}

BlockExecutor::~BlockExecutor() { stop(); }

void BlockExecutor::stop() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    start_.notify_all();
    for (std::thread &thread : threads_) thread.join();
}

void BlockExecutor::launch(std::size_t n, Call call, const void *body) {
    std::lock_guard<std::mutex> turn(turn_);
    std::unique_lock<std::mutex> lock(mutex_);
    n_ = n, call_ = call, body_ = body;
    running_ = threads_.size();
    ++launched_;
    start_.notify_all();
    done_.wait(lock, [this] { return running_ == 0; });
}

void BlockExecutor::linger(std::uint64_t done) const {
    const auto end = std::chrono::steady_clock::now() + LINGER;
    while (launched_ == done && !stopping_ && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

void BlockExecutor::work(std::size_t worker, std::int32_t cpu) {
    const bool bound = bind_to(cpu);
    std::unique_lock<std::mutex> lock(mutex_);
    bound_ += bound;
    for (std::uint64_t done = 0;; ++done) {
        if (--running_ == 0) done_.notify_one();
        lock.unlock();
        linger(done);
        lock.lock();
        start_.wait(lock, [&] { return stopping_ || launched_ > done; });
        if (stopping_) return;
        lock.unlock();
        const std::size_t m = seen_.size(), begin = block_begin(worker, n_, m), end = block_begin(worker + 1, n_, m);
        call_(body_, worker, begin, end);
        seen_[worker] = {this_thread(worker), this_cpu(), static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)};
        lock.lock();
    }
}

}  // namespace gl
