// How work is launched: a range of indices cut into one block per worker, each worker a thread on a core of its own.
//
// Whoever touches memory first decides on which NUMA domain its pages lie. The cut depends on nothing but the range and
// the number of workers, so what a worker has touched first it also reads later, as long as the executor is the same.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace gl {

// Where worker i of m begins in [0, n): ⌊i·n/m⌋. Blocks cover the range once, in order, and differ by one at most.
inline std::size_t block_begin(std::size_t i, std::size_t n, std::size_t m) {
    return i * (n / m) + i * (n % m) / m;  // i · n may not fit
}

// What one worker did last.
struct Seen {
    std::int64_t thread, cpu, begin, end;  // cpu: −1 where the system doesn't tell
};

class BlockExecutor {
public:
    // One worker per entry of `cpus`, bound to that logical CPU where the system allows it; an entry below 0 isn't bound.
    BlockExecutor(const std::int32_t *cpus, std::size_t workers);
    virtual ~BlockExecutor();
    BlockExecutor(const BlockExecutor &) = delete;
    BlockExecutor &operator=(const BlockExecutor &) = delete;

    // Calls body(worker, begin, end) by every worker on its block of [0, n): all are launched, then all are waited for.
    template <class Body>
    void bulk(std::size_t n, const Body &body) {
        launch(n, [](const void *it, std::size_t worker, std::size_t begin, std::size_t end) {
            (*static_cast<const Body *>(it))(worker, begin, end);
        }, &body);
    }

    // The same in chunks of `chunk` indices (the last may be shorter): whoever is done takes the next one. For work that
    // is uneven, or whose memory isn't placed.
    template <class Body>
    void dynamic(std::size_t n, std::size_t chunk, const Body &body) {
        std::atomic<std::size_t> next{0};
        bulk(workers(), [&](std::size_t worker, std::size_t, std::size_t) {
            for (std::size_t begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < n;)
                body(worker, begin, n - begin < chunk ? n : begin + chunk);
        });
    }

    std::size_t workers() const { return seen_.size(); }
    std::size_t bound() const { return bound_; }  // workers that the system has bound to their CPU
    const std::vector<Seen> &seen() const { return seen_; }

protected:
    using Call = void (*)(const void *body, std::size_t worker, std::size_t begin, std::size_t end);

    explicit BlockExecutor(std::size_t workers) : seen_(workers) {}  // without threads

    virtual void launch(std::size_t n, Call call, const void *body);

    std::mutex turn_;  // one bulk at a time
    std::vector<Seen> seen_;

private:
    void linger(std::uint64_t done) const;  // look out for the next launch for a moment, before going to sleep
    void work(std::size_t worker, std::int32_t cpu);
    void stop();

    std::mutex mutex_;
    std::condition_variable start_, done_;
    std::atomic<std::uint64_t> launched_{0};
    std::size_t running_ = 0, bound_ = 0, n_ = 0;
    Call call_ = nullptr;
    const void *body_ = nullptr;
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

// The system's number of the calling thread (else: the worker's), and the CPU that it is on, −1 where it isn't told.
std::int64_t this_thread(std::size_t worker);
std::int64_t this_cpu();

// dynamic, or all of it on the calling thread where there is no executor or no more than one chunk.
template <class Body>
void in_chunks(BlockExecutor *executor, std::size_t n, std::size_t chunk, const Body &body) {
    if (executor != nullptr && n > chunk) {
        executor->dynamic(n, chunk, body);
    } else if (n > 0) {
        body(std::size_t{0}, std::size_t{0}, n);
    }
}

}  // namespace gl
