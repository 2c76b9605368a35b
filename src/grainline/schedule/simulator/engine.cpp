// compile with: -ffp-contract=off
// The simulator's engine: what engine_py.py says, in the same order and with the same roundings. See there for the meaning.

#include <algorithm>
#include <cstdint>
#include <new>
#include <queue>
#include <vector>

namespace {

struct Ragged {
    const int32_t *offsets, *values;
    const int32_t *begin(int i) const { return values + offsets[i]; }
    const int32_t *end(int i) const { return values + offsets[i + 1]; }
    int size(int i) const { return offsets[i + 1] - offsets[i]; }
};

// The inverse of a map from `n` things to `groups`: the things of each group, ascending.
struct Groups {
    std::vector<int32_t> offsets, values;
    Groups(int groups, int n, const int32_t *group_of) : offsets(groups + 1), values(n) {
        for (int i = 0; i < n; i++) offsets[group_of[i] + 1]++;
        for (int g = 0; g < groups; g++) offsets[g + 1] += offsets[g];
        std::vector<int32_t> at(offsets.begin(), offsets.end() - 1);
        for (int i = 0; i < n; i++) values[at[group_of[i]]++] = i;
    }
    const int32_t *begin(int g) const { return values.data() + offsets[g]; }
    const int32_t *end(int g) const { return values.data() + offsets[g + 1]; }
    int size(int g) const { return offsets[g + 1] - offsets[g]; }
};

struct Event {
    double when;
    int32_t task, version;
    bool operator<(const Event &other) const {  // the queue's top is its greatest
        return when != other.when ? when > other.when : task > other.task;
    }
};

struct Share {
    double least;
    int32_t link;
    bool operator<(const Share &other) const { return least != other.least ? least > other.least : link > other.link; }
};

// A set of small integers that remembers the order in which they came.
struct Marked {
    std::vector<int32_t> items;
    std::vector<char> is_in;
    explicit Marked(int n) : is_in(n) {}
    bool add(int i) {
        if (is_in[i]) return false;
        is_in[i] = 1;
        items.push_back(i);
        return true;
    }
    void clear() {
        for (int i : items) is_in[i] = 0;
        items.clear();
    }
};

constexpr double kRoom = 1 + 1e-12;

struct Graph {
    int tasks, streams, links, tiers, rows, disturbances;
    const int32_t *stream;
    const double *seconds, *bytes;
    Ragged crosses, needs;
    const int32_t *row_task, *row_tier;
    const double *at_start, *at_end, *base, *limit, *capacity;
    const int32_t *disturbed, *by;
    const double *slowed;
};

class Engine {
  public:
    Engine(const Graph &graph, double *start, double *end, int32_t *effects)
        : g(graph), start(start), end(end), effects(effects), queue(g.streams, g.tasks, g.stream),
          rows(g.tasks, g.rows, g.row_task), disturbed_by(g.streams, g.disturbances, g.disturbed),
          disturbs(g.streams + g.links, g.disturbances, g.by), waits_for(g.tasks), needed_from(g.tasks + 1),
          needed_by(g.needs.offsets[g.tasks]), next(g.streams), running(g.streams, -1), left(g.tasks), since(g.tasks),
          speed(g.tasks), share(g.tasks), version(g.tasks), flowing(g.tasks), flows(g.links), link_left(g.links),
          unshared(g.links), changed_links(g.links), reached(g.links), found(g.tasks), settled(g.tasks),
          factor(g.streams, 1.0), changed_streams(g.streams), used(g.base, g.base + g.tiers), waiting(g.tiers),
          freed(g.tiers), turn(g.tasks) {
        std::fill(start, start + g.tasks, -1.0);
        std::fill(end, end + g.tasks, -1.0);
        for (int i = 0; i < g.tasks; i++) waits_for[i] = g.needs.size(i);
        for (int i = 0; i < g.needs.offsets[g.tasks]; i++) needed_from[g.needs.values[i] + 1]++;
        for (int i = 0; i < g.tasks; i++) needed_from[i + 1] += needed_from[i];
        std::vector<int32_t> at(needed_from.begin(), needed_from.end() - 1);
        for (int i = 0; i < g.tasks; i++)
            for (const int32_t *need = g.needs.begin(i); need != g.needs.end(i); need++) needed_by[at[*need]++] = i;
    }

    int64_t run() {
        for (int s = 0; s < g.streams; s++)
            if (queue.size(s) && !waits_for[*queue.begin(s)]) candidates.push_back(*queue.begin(s));
        start_ready(0.0);
        settle(0.0);
        while (!events.empty()) {
            const double now = events.top().when;
            while (!events.empty() && events.top().when == now) {
                end_all(now);
                start_ready(now);
            }
            settle(now);
        }
        return effects_done;
    }

  private:
    const Graph &g;
    double *start, *end;
    int32_t *effects;
    int64_t effects_done = 0;

    Groups queue, rows, disturbed_by, disturbs;
    std::vector<int32_t> waits_for, needed_from, needed_by, next, running;
    std::priority_queue<Event> events;
    std::vector<double> left, since, speed, share;
    std::vector<int32_t> version;
    std::vector<char> flowing;

    std::vector<std::vector<int32_t>> flows;
    std::vector<double> link_left;
    std::vector<int32_t> unshared;
    Marked changed_links, reached, found, settled;

    std::vector<double> factor;
    Marked changed_streams;

    std::vector<double> used;
    std::vector<std::vector<int32_t>> waiting;
    Marked freed;
    std::vector<int32_t> turn;
    int32_t turns = 0;
    std::vector<int32_t> candidates, ending, to_try, changed_tasks;

    bool moves_bytes(int task) const { return g.bytes[task] > 0 && g.crosses.size(task); }

    void disturb(int by) {
        for (const int32_t *d = disturbs.begin(by); d != disturbs.end(by); d++) changed_streams.add(g.disturbed[*d]);
    }

    void end_all(double now) {
        ending.clear();
        while (!events.empty() && events.top().when == now) {
            const Event event = events.top();
            events.pop();
            if (event.version == version[event.task]) ending.push_back(event.task);
        }
        for (int task : ending) {
            if (!flowing[task] && moves_bytes(task))
                begin_flow(task);
            else
                end_one(task, now);
        }
    }

    void end_one(int task, double now) {
        end[task] = now;
        const int stream = g.stream[task];
        version[task]++;
        if (flowing[task]) {
            for (const int32_t *link = g.crosses.begin(task); link != g.crosses.end(task); link++) {
                flows[*link].erase(std::find(flows[*link].begin(), flows[*link].end(), task));
                changed_links.add(*link);
                disturb(g.streams + *link);
            }
        }
        for (const int32_t *row = rows.begin(task); row != rows.end(task); row++) effect(*row, g.at_end, 1);
        running[stream] = -1;
        disturb(stream);
        next[stream]++;
        for (int i = needed_from[task]; i < needed_from[task + 1]; i++) {
            const int other = needed_by[i];
            if (!--waits_for[other] && g.stream[other] != stream && is_next(other)) candidates.push_back(other);
        }
        if (next[stream] < queue.size(stream)) {
            const int after = queue.begin(stream)[next[stream]];
            if (!waits_for[after]) candidates.push_back(after);
        }
    }

    bool is_next(int task) const {
        const int stream = g.stream[task];
        return running[stream] < 0 && queue.begin(stream)[next[stream]] == task;
    }

    void start_ready(double now) {
        std::sort(candidates.begin(), candidates.end());
        for (int task : candidates) turn[task] = turns++;
        while (!candidates.empty() || !freed.items.empty()) {
            to_try.clear();
            for (int tier : freed.items) {
                to_try.insert(to_try.end(), waiting[tier].begin(), waiting[tier].end());
                waiting[tier].clear();
            }
            freed.clear();
            std::sort(to_try.begin(), to_try.end(), [this](int a, int b) { return turn[a] < turn[b]; });
            to_try.insert(to_try.end(), candidates.begin(), candidates.end());
            candidates.clear();
            for (int task : to_try) try_one(task, now);
        }
    }

    void try_one(int task, double now) {
        for (const int32_t *row = rows.begin(task); row != rows.end(task); row++) {
            const int tier = g.row_tier[*row];
            if (g.at_start[*row] > 0 && used[tier] + g.at_start[*row] > g.limit[tier] * kRoom) {
                waiting[tier].push_back(task);
                return;
            }
        }
        for (const int32_t *row = rows.begin(task); row != rows.end(task); row++) effect(*row, g.at_start, 0);
        const int stream = g.stream[task];
        running[stream] = task;
        start[task] = now;
        disturb(stream);
        if (g.seconds[task] > 0 || !moves_bytes(task)) {
            left[task] = g.seconds[task];
            go(task, factor[stream], now);
        } else {
            begin_flow(task);
        }
    }

    void begin_flow(int task) {
        flowing[task] = 1;
        version[task]++;
        left[task] = g.bytes[task];
        speed[task] = share[task] = 0.0;
        for (const int32_t *link = g.crosses.begin(task); link != g.crosses.end(task); link++) {
            flows[*link].push_back(task);
            changed_links.add(*link);
            disturb(g.streams + *link);
        }
    }

    void effect(int row, const double *effect_bytes, int at_end) {
        const double change = effect_bytes[row];
        if (change == 0) return;
        used[g.row_tier[row]] += change;
        effects[effects_done++] = 2 * row + at_end;
        if (change < 0) freed.add(g.row_tier[row]);
    }

    void settle(double now) {
        changed_tasks.clear();
        if (!changed_links.items.empty()) share_links();
        if (!changed_streams.items.empty()) {
            std::sort(changed_streams.items.begin(), changed_streams.items.end());
            for (int stream : changed_streams.items) {
                double product = 1.0;
                for (const int32_t *d = disturbed_by.begin(stream); d != disturbed_by.end(stream); d++) {
                    const int by = g.by[*d];
                    const bool busy = by < g.streams ? running[by] >= 0 : !flows[by - g.streams].empty();
                    product *= busy ? g.slowed[*d] : 1.0;
                }
                if (product != factor[stream]) {
                    factor[stream] = product;
                    if (running[stream] >= 0) changed_tasks.push_back(running[stream]);
                }
            }
            changed_streams.clear();
        }
        for (int task : changed_tasks) go(task, (flowing[task] ? share[task] : 1.0) * factor[g.stream[task]], now);
    }

    void go(int task, double to, double now) {
        if (to == speed[task]) return;
        if (speed[task] > 0) left[task] = std::max(0.0, left[task] - (now - since[task]) * speed[task]);
        since[task] = now;
        speed[task] = to;
        version[task]++;
        events.push({now + left[task] / to, task, version[task]});
    }

    void share_links() {
        std::vector<int32_t> &links = reached.items;
        for (int link : changed_links.items) reached.add(link);
        std::sort(links.begin(), links.end());
        changed_links.clear();
        for (size_t i = 0; i < links.size(); i++)  // grows
            for (int flow : flows[links[i]])
                if (found.add(flow))
                    for (const int32_t *other = g.crosses.begin(flow); other != g.crosses.end(flow); other++)
                        reached.add(*other);
        std::vector<Share> first;
        for (int link : links) {
            link_left[link] = g.capacity[link];
            unshared[link] = static_cast<int32_t>(flows[link].size());
            if (unshared[link]) first.push_back({link_left[link] / unshared[link], link});
        }
        std::priority_queue<Share> least(std::less<Share>(), std::move(first));
        while (!least.empty()) {
            const Share top = least.top();
            least.pop();
            if (!unshared[top.link]) continue;
            const double now = link_left[top.link] / unshared[top.link];
            if (now > top.least) {  // other flows on it have been settled since
                least.push({now, top.link});
                continue;
            }
            for (int flow : flows[top.link]) {
                if (!settled.add(flow)) continue;
                share[flow] = now;
                for (const int32_t *other = g.crosses.begin(flow); other != g.crosses.end(flow); other++) {
                    link_left[*other] -= now;
                    unshared[*other]--;
                }
            }
        }
        changed_tasks = found.items;
        std::sort(changed_tasks.begin(), changed_tasks.end());
        found.clear();
        settled.clear();
        reached.clear();
    }
};

}  // namespace

// Fills `start` and `end` (by task; -1: never) and `effects` (room for two per memory row); how many effects there are,
// or -1 where memory doesn't suffice.
extern "C" __attribute__((visibility("default"))) int64_t gl_simulate(
    const int32_t *sizes, const int32_t *stream, const double *seconds, const double *bytes,
    const int32_t *cross_offsets, const int32_t *crosses, const int32_t *need_offsets, const int32_t *needs,
    const int32_t *row_task, const int32_t *row_tier, const double *at_start, const double *at_end, const double *base,
    const double *limit, const double *capacity, const int32_t *disturbed, const int32_t *by, const double *slowed,
    double *start, double *end, int32_t *effects) {
    const Graph graph = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], stream, seconds, bytes,
                         {cross_offsets, crosses}, {need_offsets, needs}, row_task, row_tier, at_start, at_end, base,
                         limit, capacity, disturbed, by, slowed};
    try {
        return Engine(graph, start, end, effects).run();
    } catch (const std::bad_alloc &) {
        return -1;
    }
}
