// Workers beside torch's: the calling thread takes part, and other threads help it as long as there is work left.
//
// Where torch's own threads are OpenMP's, they are borrowed: a second pool on the same cores would halve both. Else the
// team has threads of its own, which look out for the next call for a moment and then sleep.
#pragma once

#include "executor.h"

namespace gl {

// As OpenMP's runtimes offer it to compilers: fn(data) by `threads` threads, of which the caller is one; all are awaited.
using Lend = void (*)(void (*fn)(void *), void *data, unsigned threads, unsigned flags);

// A block is done by whichever thread comes first, the calling one among them, so a helper that the system is slow to
// wake delays nobody. Worker i of m is whoever has taken block i: bodies must not wait for one another. When the helpers
// are busy for another caller, the calling thread does all blocks.
class Team final : public BlockExecutor {
public:
    Team(std::size_t workers, Lend lend);  // lend: null for helpers of its own
    ~Team() override;

protected:
    void launch(std::size_t n, Call call, const void *body) override;

private:
    struct Job;
    void help();
    void finish();
    void stop_helpers();

    const Lend lend_;
    std::mutex state_;
    std::condition_variable wake_, left_;
    Job *job_ = nullptr;      // what helpers may join
    std::size_t inside_ = 0;  // helpers that have joined
    std::atomic<std::uint64_t> jobs_{0};  // so far
    std::atomic<bool> ending_{false};
    std::vector<std::thread> helpers_;
};

}  // namespace gl
