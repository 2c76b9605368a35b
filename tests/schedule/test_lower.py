"""lower, then simulate: closed forms of whole schedules, messages, collectives, and memory by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.hardware.shorthand import cluster_of
from grainline.hardware.topology import topology
from grainline.schedule import (
    Action,
    Costs,
    Kind,
    Network,
    Schedule,
    ScheduleError,
    StageCost,
    Timeline,
    add_messages,
    equal_costs,
    gpipe,
    lower,
    simulate,
)
from grainline.schedule.schedule import straight_paths


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_gpipe_takes_what_the_paper_says(
    ranks: int, microbatches: int, forward: int, backward: int, sent: bool
) -> None:
    schedule = gpipe(ranks, microbatches)
    schedule = add_messages(schedule) if sent else schedule
    found = simulate(lower(schedule, equal_costs(forward, backward), Network.ideal(ranks)))
    assert found.makespan == (microbatches + ranks - 1) * (forward + backward)
    assert found.bubble_fraction == pytest.approx((ranks - 1) / (microbatches + ranks - 1), rel=1e-12, abs=1e-15)
    assert found.bubble_overhead == pytest.approx((ranks - 1) / microbatches, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_gpipe_over_links_that_are_faster_than_compute(microbatches: int) -> None:
    # A message takes 0.25 + 30/120 = 0.5 s, hidden but for the filling and the draining: 3 hops there, 3 back.
    schedule = add_messages(gpipe(4, microbatches), lookahead=microbatches)
    network = Network.uniform(4, latency_seconds=0.25, bytes_per_second=120.0)
    found = simulate(lower(schedule, equal_costs(1.0, 2.0, output_bytes=30.0), network))
    assert found.makespan == pytest.approx((microbatches + 3) * 3.0 + 2 * 3 * 0.5, rel=1e-12)
    assert sum(found.link_bytes.values()) == 2 * 2 * 3 * microbatches * 30.0  # out and in, there and back


def test_gpipe_over_links_that_are_slower_than_compute() -> None:
    # The link is the bottleneck: M messages of 4 s, one after another, both ways.
    schedule = add_messages(gpipe(2, 5), lookahead=5)
    found = simulate(lower(schedule, equal_costs(1.0, 2.0, output_bytes=4.0), Network.uniform(2, 0.0, 1.0)))
    assert found.makespan == pytest.approx((1 + 5 * 4.0 + 1) + (2 + 5 * 4.0 + 2), rel=1e-12)


def test_both_ways_of_a_port_are_separate_and_each_is_shared() -> None:
    # Rank 1 sends to 0 and to 2 at the same time: its way out is shared, and a message takes twice as long.
    schedule = Schedule(
        "fork",
        (straight_paths((1, 0), 1)[0], straight_paths((1, 2), 1)[0]),
        (
            (Action(Kind.RECV_F, 1, 0, 1, 0), Action(Kind.F, 1, 0)),
            (
                Action(Kind.F, 0, 0),
                Action(Kind.F, 0, 1),
                Action(Kind.SEND_F, 0, 0, 0, 1),
                Action(Kind.SEND_F, 0, 1, 2, 1),
            ),
            (Action(Kind.RECV_F, 1, 1, 1, 0), Action(Kind.F, 1, 1)),
        ),
    )
    found = simulate(lower(schedule, equal_costs(1.0, 2.0, output_bytes=10.0), Network.uniform(3, 0.5, 10.0)))
    ends = {str(action): end for action, end in zip(found.actions, found.end.tolist(), strict=True)}
    assert ends["F0.1"] == 2.0
    assert ends["SEND_F0.0→0"] == ends["SEND_F0.1→2"] == 2.0 + 0.5 + 2.0
    assert found.link_bytes["rank 1 out"] == 20.0


def peak(schedule: Schedule, costs: Costs, **options: object) -> list[float]:
    found: Timeline = simulate(lower(schedule, costs, Network.ideal(schedule.ranks), **options))  # type: ignore[arg-type]
    assert {series.bytes[-1] - series.bytes[0] for series in found.memory} == {0.0}  # all is freed
    return found.peak_bytes().tolist()


def test_gpipe_keeps_every_micro_batch() -> None:
    assert peak(gpipe(2, 5), equal_costs(kept_bytes=7.0)) == [35.0, 35.0]


def test_weights_and_the_like_are_held_throughout() -> None:
    costs = replace(equal_costs(kept_bytes=7.0), static_bytes={1: 100.0})
    found = simulate(lower(gpipe(2, 3), costs, Network.ideal(2)))
    assert found.peak_bytes().tolist() == [21.0, 121.0]
    assert found.memory[1].bytes[0] == 100.0


def with_kinds(schedule: Schedule, *, before: tuple[Kind, ...] = (), instead: tuple[Kind, ...] = ()) -> Schedule:
    """Every B with actions before it, or others instead."""

    def changed(action: Action) -> list[Action]:
        if action.kind is not Kind.B:
            return [action]
        kinds = (*before, *(instead or (Kind.B,)))
        return [Action(kind, action.stage, action.microbatch) for kind in kinds]

    return schedule.with_actions([[new for a in actions for new in changed(a)] for actions in schedule.actions])


def one_cost(**sizes: float) -> Costs:
    seconds = {Kind.F: 1.0, Kind.B: 2.0, Kind.I: 1.0, Kind.W: 1.0, Kind.R: 1.0}
    return Costs(lambda stage, rank: StageCost(seconds, **sizes))


def test_recomputation_keeps_inputs_and_one_whole() -> None:
    # 4 inputs of 2, of which one has become 10 whole: 3 · 2 + 10.
    schedule = with_kinds(gpipe(1, 4), before=(Kind.R,))
    assert peak(schedule, one_cost(kept_bytes=10.0, input_bytes=2.0)) == [16.0]


def test_splitting_holds_what_is_queued_until_w() -> None:
    # After both I, 2 · 4 are left; the peak is before any I: 2 · 10.
    schedule = with_kinds(gpipe(1, 2), instead=(Kind.I,))
    late = schedule.with_actions([(*schedule.actions[0], Action(Kind.W, 0, 1), Action(Kind.W, 0, 0))])
    graph = lower(late, one_cost(kept_bytes=10.0, queued_bytes=4.0), Network.ideal(1))
    (series,) = simulate(graph).memory
    assert series.bytes.tolist() == [0.0, 10.0, 20.0, 14.0, 8.0, 4.0, 0.0]


def test_offloaded_activations_wait_at_the_host() -> None:
    kept, m = 10.0, 3
    actions = [a for i in range(m) for a in (Action(Kind.F, 0, i), Action(Kind.OFFLOAD, 0, i))]
    for i in reversed(range(m)):
        actions += [Action(Kind.FETCH, 0, i), Action(Kind.B, 0, i)]
    schedule = Schedule("offloaded", straight_paths((0,), m), (tuple(actions),))
    network = Network.uniform(1, 0.0, 1.0).with_host(1, bytes_per_second=20.0, latency_seconds=0.25)
    found = simulate(lower(schedule, one_cost(kept_bytes=kept), network))
    # A copy takes 0.25 + 10/20 s. F of the next micro-batch goes on meanwhile: at most 2 on the device. Backwards:
    # fetches are started at their place in the list, after the backward before them.
    assert [series.tier for series in found.memory] == ["rank 0", "host of rank 0"]
    assert [series.peak_bytes for series in found.memory] == [20.0, 30.0]
    assert found.makespan == pytest.approx(3 * 1.0 + 0.75 + 3 * (0.75 + 2.0), rel=1e-12)
    assert found.link_bytes == {"rank 0 out": 0.0, "rank 0 in": 0.0, "rank 0 to host": 30.0, "rank 0 from host": 30.0}
    with pytest.raises(ScheduleError, match=r"rank 0: OFFLOAD0.0: the network has no way to a host"):
        lower(schedule, one_cost(kept_bytes=kept), Network.uniform(1, 0.0, 1.0))


def test_received_tensors_are_held_until_they_are_used() -> None:
    # Rank 0's first gradient comes while all 3 micro-batches are kept; rank 1's inputs become what F keeps.
    costs = equal_costs(1.0, 1.0, output_bytes=5.0, kept_bytes=7.0)
    schedule = add_messages(gpipe(2, 3), lookahead=3)
    assert peak(schedule, costs) == [3 * 7.0 + 5.0, 3 * 7.0]
    assert peak(schedule, costs, count_received=False) == [21.0, 21.0]


def test_a_rank_needs_room() -> None:
    # F and B in turn need room for one micro-batch; two F one after another need it for two.
    actions = tuple(Action(kind, 0, m) for m in range(2) for kind in (Kind.F, Kind.B))
    schedule = Schedule("in turn", straight_paths((0,), 2), (actions,))
    assert peak(schedule, one_cost(kept_bytes=7.0), capacity_bytes={0: 7.0}) == [7.0]
    with pytest.raises(ScheduleError, match=r"\(rank 0: F0.1\) wants 7 bytes of rank 0, which holds 7 of 13 when"):
        peak(gpipe(1, 2), one_cost(kept_bytes=7.0), capacity_bytes={0: 13.0})


def collective(action: Action, ranks: int) -> tuple[float, dict[str, float]]:
    """Seconds and link bytes of one collective of all ranks: before everything if it is the embedding's, else after."""
    step = add_messages(gpipe(ranks, 1)).actions
    embedding = action.kind is Kind.C_EMBED
    lists = [(Action(Kind.EMBED, -1, 0), action, *each) if embedding else (*each, action) for each in step]
    costs = replace(equal_costs(), collective_bytes={action.kind: 12.0}, rank_seconds={Kind.EMBED: 0.0})
    network = Network.uniform(ranks, latency_seconds=0.5, bytes_per_second=4.0)
    found = simulate(lower(gpipe(ranks, 1).with_actions(lists), costs, network))
    (task,) = [i for i, one in enumerate(found.actions) if one == action]
    return found.end[task] - found.start[task], dict(found.link_bytes)


def test_a_sum_at_all_takes_what_a_ring_takes() -> None:
    seconds, moved = collective(Action(Kind.REDUCE, 0), ranks=3)
    assert seconds == pytest.approx(2 * 2 * 0.5 + 2 * 2 / 3 * 12.0 / 4.0, rel=1e-12)
    assert set(moved.values()) == {16.0}
    assert collective(Action(Kind.REDUCE, 0), ranks=1)[0] == 0.0


@pytest.mark.parametrize(
    ("kind", "hops"),
    [
        (Kind.C0, ["2→0", "0→1"]),  # a copy that begins at the last stage's rank
        (Kind.C_EMBED, ["1→2", "2→0"]),  # a sum that ends at the first stage's
    ],
)
def test_an_open_ring_sends_all_over_every_hop(kind: Kind, hops: list[str]) -> None:
    seconds, moved = collective(Action(kind, -1, 0), ranks=3)
    assert seconds == pytest.approx(2 * 0.5 + 12.0 / 4.0, rel=1e-12)
    crossed = {f"rank {hop[0]} out" for hop in hops} | {f"rank {hop[2]} in" for hop in hops}
    assert moved == {link: 12.0 if link in crossed else 0.0 for link in moved}


def test_a_network_of_a_topology_crosses_its_wires() -> None:
    drawn = topology(cluster_of("2xA100-80 + 2xA10G"))
    devices = (3, 0, 0, 2)
    network = Network.of(drawn, devices)
    assert [link.bytes_per_second for link in network.links] == [wire.bytes_per_second for wire in drawn.wires]
    for source, one in enumerate(devices):
        for target, other in enumerate(devices):
            latency_seconds, links = network.route(source, target)
            assert links == drawn.route(one, other)
            assert latency_seconds == pytest.approx(drawn.latency_seconds(one, other), rel=1e-12)
        assert tuple(route.links for route in network.host[source]) == drawn.host_routes(one)
    assert network.route(1, 2) == (0.0, ())  # on one device
    assert network.route(0, 1).links != network.route(1, 0).links
    assert len(network.host) == 4
    found = simulate(lower(add_messages(gpipe(4, 2)), equal_costs(1.0, 2.0, output_bytes=1e9), network))
    assert sum(moved > 0 for moved in found.link_bytes.values()) >= 2
    assert found.makespan > 5 * 3.0


def test_lists_without_messages_are_refused_where_messages_take_time() -> None:
    with pytest.raises(ScheduleError, match=r"rank 0: B0.0 uses rank 1: B1.0, and no message carries it: add_"):
        lower(gpipe(2, 1), equal_costs(), Network.uniform(2, 0.0, 1.0))
    assert simulate(lower(gpipe(1, 1), equal_costs(), Network.uniform(1, 0.0, 1.0))).makespan == 3.0


def test_overlap_slows_compute_at_both_ends_while_a_message_travels() -> None:
    schedule = add_messages(gpipe(2, 2), lookahead=2)
    costs = equal_costs(1.0, 1.0, output_bytes=1.0)
    graph = lower(schedule, costs, Network.uniform(2, 0.0, 2.0), overlap_speed=0.5)
    found = simulate(graph)
    times = {
        (int(r), str(a)): (s, e) for r, a, s, e in zip(found.rank, found.actions, found.start, found.end, strict=True)
    }
    # F0.1 runs beside the message of F0.0, 0.5 s long: 0.25 of its work is done then.
    assert times[0, "F0.1"] == (1.0, 2.25)
    # F1.0 begins at 1.5 and is disturbed from 2.25 to 2.75 by the next message.
    assert times[1, "F1.0"] == (1.5, 2.75)


def test_what_has_no_cost_is_named() -> None:
    costs = Costs(lambda stage, rank: StageCost({Kind.F: 1.0}))
    with pytest.raises(ScheduleError, match=r"the costs say nothing of rank 0: B0\.1"):
        lower(gpipe(1, 2), costs, Network.ideal(1))


def test_unlike_ranks_take_what_their_costs_say() -> None:
    def stage(stage: int, rank: int) -> StageCost:
        return StageCost({Kind.F: 1.0 + rank, Kind.B: 2.0 + stage})

    found = simulate(lower(gpipe(2, 3), Costs(stage), Network.ideal(2)))
    # Rank 1 is the bottleneck: it begins at 1 and works 3 · 2 + 3 · 3; rank 0's last B of 2 follows.
    assert found.makespan == 1 + 3 * 2 + 3 * 3 + 2
    assert found.busy_seconds().tolist() == [9.0, 15.0]


def test_passes_of_no_stage_may_differ_by_rank() -> None:
    schedule = gpipe(2, 1).with_actions([(*actions, Action(Kind.UPDATE)) for actions in gpipe(2, 1).actions])
    costs = replace(equal_costs(), rank_seconds={Kind.UPDATE: 1.0}, seconds_on={(Kind.UPDATE, 1): 5.0})
    assert simulate(lower(schedule, costs, Network.ideal(2))).busy_seconds().tolist() == [4.0, 8.0]


def test_a_collective_takes_what_costs_say_besides_its_time_on_links() -> None:
    schedule = add_messages(gpipe(2, 1))
    schedule = schedule.with_actions([(*actions, Action(Kind.REDUCE, 0)) for actions in schedule.actions])
    costs = replace(equal_costs(), rank_seconds={Kind.REDUCE: 7.0}, collective_bytes={Kind.REDUCE: 10.0})
    found = simulate(lower(schedule, costs, Network.uniform(2, 0.5, 10.0)))
    assert found.makespan == 6.0 + 2 * 0.5 + 7.0 + 2 * 0.5 + 1.0
