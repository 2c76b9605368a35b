// An executor's workers as the expert kernels see them.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../executor.h"
#include "problem.h"

namespace gl::experts {

// A thread's memory for its calls: a piece for each worker. It stays for the next call, unless it is large.
class Scratch {
public:
    static constexpr i64 KEEP = 64 << 20;

    void *get(i64 worker, i64 bytes) {
        Piece &piece = pieces_[static_cast<std::size_t>(worker)];
        if (piece.bytes < bytes) {
            piece.at.reset();
            piece.bytes = 0;
            const i64 whole = (bytes + 4095) / 4096 * 4096;
            piece.at.reset(std::aligned_alloc(4096, static_cast<std::size_t>(whole)));
            if (!piece.at) throw std::bad_alloc();
            piece.bytes = whole;
        }
        return piece.at.get();
    }
    void prepare(i64 workers) {
        if (static_cast<i64>(pieces_.size()) < workers) pieces_.resize(static_cast<std::size_t>(workers));
    }
    void tidy() {
        for (Piece &piece : pieces_)
            if (piece.bytes > KEEP) piece = Piece{};
    }

private:
    struct Free {
        void operator()(void *memory) const { std::free(memory); }
    };
    struct Piece {
        std::unique_ptr<void, Free> at;
        i64 bytes = 0;
    };
    std::vector<Piece> pieces_;
};

// Tasks are taken one by one, so that unequal ones share out.
class Workers final : public Crew {
public:
    Workers(BlockExecutor *executor, Scratch &scratch) : executor_(executor), scratch_(scratch) {
        scratch_.prepare(workers() + 1);
    }
    ~Workers() { scratch_.tidy(); }
    Workers(const Workers &) = delete;
    Workers &operator=(const Workers &) = delete;

    i64 workers() const override { return executor_ ? static_cast<i64>(executor_->workers()) : 1; }

    void run(i64 tasks, Task task, const void *context) override {
        if (!executor_ || tasks == 1) {
            for (i64 i = 0; i < tasks; ++i) task(context, i, 0);
            return;
        }
        std::atomic<bool> failed{false};
        executor_->dynamic(static_cast<std::size_t>(tasks), 1, [&](std::size_t worker, std::size_t i, std::size_t) {
            try {
                task(context, static_cast<i64>(i), static_cast<i64>(worker));
            } catch (...) {  // nothing but getting memory can fail
                failed = true;
            }
        });
        if (failed) throw std::bad_alloc();
    }

    void pause(i64 n) const override {
        if (n >= SPINS) std::this_thread::yield();
    }

    void *scratch(i64 worker, i64 bytes) override { return scratch_.get(worker, bytes); }

private:
    static constexpr i64 SPINS = 1000;

    BlockExecutor *executor_;
    Scratch &scratch_;
};

}  // namespace gl::experts
