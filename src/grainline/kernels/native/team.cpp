#include "team.h"

#include <chrono>

namespace gl {
namespace {

constexpr std::chrono::microseconds LINGER{50};  // as in executor.cpp

// Yields until `over` or LINGER is up.
template <class Over>
void linger_until(const Over &over) {
    const auto end = std::chrono::steady_clock::now() + LINGER;
    while (!over() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace

// One call: its blocks, and which of them is next.
struct Team::Job {
    Call call;
    const void *body;
    std::size_t n, blocks;
    Seen *seen;  // null: not to be written
    std::atomic<std::size_t> next{0};

    void take_blocks() {
        for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
            const std::size_t begin = block_begin(i, n, blocks), end = block_begin(i + 1, n, blocks);
            call(body, i, begin, end);
            if (seen) seen[i] = {this_thread(i), this_cpu(), static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)};
        }
    }
};

Team::Team(std::size_t workers, Lend lend) : BlockExecutor(workers), lend_(lend) {
    if (lend_) return;
    try {
        for (std::size_t i = 1; i < workers; ++i) helpers_.emplace_back([this] { help(); });
    } catch (...) {
        stop_helpers();
        throw;
    }
}

Team::~Team() { stop_helpers(); }

void Team::stop_helpers() {
    {
        std::lock_guard<std::mutex> lock(state_);
        ending_ = true;
    }
    wake_.notify_all();
    for (std::thread &helper : helpers_) helper.join();
}

void Team::launch(std::size_t n, Call call, const void *body) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    Job job{call, body, n, workers(), turn.owns_lock() ? seen_.data() : nullptr};
    if (lend_) {
        lend_([](void *it) { static_cast<Job *>(it)->take_blocks(); }, &job, static_cast<unsigned>(workers()), 0);
        return;
    }
    if (turn.owns_lock() && !helpers_.empty()) {
        {
            std::lock_guard<std::mutex> lock(state_);
            job_ = &job;
            ++jobs_;
        }
        wake_.notify_all();
        job.take_blocks();
        finish();
    } else {
        job.take_blocks();
    }
}

// No helper comes in any more; those that are in are awaited.
void Team::finish() {
    std::unique_lock<std::mutex> lock(state_);
    job_ = nullptr;
    left_.wait(lock, [this] { return inside_ == 0; });
}

void Team::help() {
    std::unique_lock<std::mutex> lock(state_);
    for (std::uint64_t seen_jobs = 0;;) {
        if (!ending_ && jobs_ == seen_jobs) {
            lock.unlock();
            linger_until([&] { return jobs_ != seen_jobs || ending_; });
            lock.lock();
        }
        wake_.wait(lock, [&] { return ending_ || jobs_ != seen_jobs; });
        if (ending_) return;
        seen_jobs = jobs_;
        if (job_ == nullptr) continue;  // over already
        Job &job = *job_;
        ++inside_;
        lock.unlock();
        job.take_blocks();
        lock.lock();
        if (--inside_ == 0) left_.notify_one();
    }
}

}  // namespace gl
