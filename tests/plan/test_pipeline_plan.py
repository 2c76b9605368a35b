"""Plans with nothing left open: what they come to, what they hold against the simulator, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from grainline.documents import Cluster, GrainlineError, Plan, Recipe
from grainline.hardware.shorthand import cluster_of
from grainline.hardware.topology import topology
from grainline.models.dial import config_for_depth
from grainline.plan.cost import cells_at
from grainline.plan.in_flight import InFlight, in_flight
from grainline.plan.pipeline import Resolved, pipeline_plan
from grainline.plan.seats import compute_dtype, computing, seats
from grainline.schedule import SCHEDULES, Kind, gpipe, lower, make_schedule, simulate, validate, zb_h1
from grainline.schedule.cells import Cell
from grainline.schedule.passes.recompute import with_recompute

CONFIG = config_for_depth(8, 1000, 256)
MIXED = cluster_of("2xA100-80 + 2xA10G@25GbE")


def _recipe(sequences: int = 32, **tables: Any) -> Recipe:
    base = {
        "model": {"config": CONFIG.tables()},
        "data": {"sequence_length": 256},
        "training": {"steps": 10, "batch_tokens": 256 * sequences},
        "learning_rate": {"peak": 1e-3},
    }
    return Recipe.parse(base | tables)


def _plan(cluster: Cluster = MIXED, recipe: Recipe | None = None, replicas: int = 1, **pipeline: Any) -> Resolved:
    plan = Plan.parse({"pipeline": {"ranks": 4} | pipeline, "layout": {"data_parallel": replicas}})
    return pipeline_plan(plan, CONFIG, recipe or _recipe(), cluster)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_becomes_a_valid_plan_that_fits_where_it_says(name: str) -> None:
    found = _plan(schedule=name)
    validate(found.schedule)
    assert sum(found.cut.cells) == CONFIG.layers + 4 == sum(map(len, found.stages))
    timeline = simulate(lower(found.schedule, found.costs, found.network, capacity_bytes=found.capacity_bytes))
    for rank, series in enumerate(timeline.memory[:4]):
        assert series.peak_bytes <= found.cut.rank_bytes[rank] * (1 + 1e-9)
        assert series.peak_bytes > 0.4 * found.cut.rank_bytes[rank]
    assert timeline.busy_seconds().max() == pytest.approx(16 * max(found.cut.rank_seconds))


def test_faster_devices_get_more_cells() -> None:
    found = _plan(cut="auto")
    assert found.cut.cells[0] > found.cut.cells[2]
    equal = _plan(cut="equal")
    assert equal.cut.cells == (3, 2, 2, 5)
    assert max(found.cut.rank_seconds) < max(equal.cut.rank_seconds)


def test_what_is_open_is_filled_in() -> None:
    found = _plan()
    assert (found.pipeline.microbatches, found.batch.sequences, found.pipeline.chunks) == (16, 2, 1)
    assert found.pipeline.cut == found.cut.cells
    assert found.batch.compute == "bfloat16"
    assert found.tokens == 256 * 32
    assert _plan(recipe=_recipe(6)).pipeline.microbatches == 4  # of two sequences, and of one
    assert _plan(recipe=_recipe(6)).batch.sequences == 2
    assert _plan(schedule="interleaved", cut=(2, 2, 2, 2, 1, 1, 1, 1)).pipeline.chunks == 2
    again = Plan.parse({"pipeline": found.pipeline.model_dump(exclude_none=True)})
    assert pipeline_plan(again, CONFIG, _recipe(), MIXED).schedule == found.schedule


def test_ranks_may_be_placed_in_another_order() -> None:
    found = _plan(placement=(3, 2, 1, 0))
    assert [found.schedule.stages_of(rank) for rank in range(4)] == [(3,), (2,), (1,), (0,)]
    validate(found.schedule)
    assert found.cut.cells[3] > found.cut.cells[1]  # the last stage, with the head, is on an A100 now
    with pytest.raises(GrainlineError, match=r"placement \[0, 0, 1, 2\] isn't the schedule's own"):
        _plan(placement=(0, 0, 1, 2))
    with pytest.raises(GrainlineError, match="placement names 3 ranks, for 4 stages"):
        _plan(placement=(0, 1, 2))


def test_recomputation_trades_memory_for_time() -> None:
    kept, again = _plan(), _plan(recompute="always", cut=_plan().cut.cells)
    timelines = [simulate(lower(p.schedule, p.costs, p.network)) for p in (kept, again)]
    assert timelines[1].makespan > timelines[0].makespan
    assert timelines[1].memory[0].peak_bytes < timelines[0].memory[0].peak_bytes
    assert 1.2 < again.cut.rank_seconds[0] / kept.cut.rank_seconds[0] < 1.45


def test_offloading_takes_the_ways_to_the_host() -> None:
    found = _plan(offload=True)
    timeline = simulate(lower(found.schedule, found.costs, found.network))
    assert any("PCIe" in name and moved for name, moved in timeline.link_bytes.items())
    assert {a.kind for actions in found.schedule.actions for a in actions} >= {Kind.OFFLOAD, Kind.FETCH}


@pytest.mark.parametrize("algorithm", ["vocab1", "vocab2"])
def test_a_split_vocabulary_is_shared_by_all_ranks(algorithm: str) -> None:
    plain, split = _plan(), _plan(vocabulary=algorithm)
    validate(split.schedule)
    timeline = simulate(lower(split.schedule, split.costs, split.network))
    assert timeline.makespan > 0
    of_passes = {kind for kind, _ in split.costs.seconds_on}
    assert of_passes == {Kind.S, Kind.T, Kind.EMBED, Kind.EMBED_GRAD, Kind.UPDATE}
    table = 4 * 4 * CONFIG.vocab_size * CONFIG.hidden_size  # parameters, gradients, two values of AdamW
    saved = sum(plain.costs.static_bytes.values()) - sum(split.costs.static_bytes.values())
    assert saved == pytest.approx(table, rel=0.01)  # MTP's cell had a copy of the embedding
    slower = split.costs.seconds_on[Kind.S, 3] / split.costs.seconds_on[Kind.S, 0]
    assert 2 < slower < 6


def test_measured_cells_stand_in_for_the_roofline() -> None:
    plain = _plan()
    roofline = cells_at(CONFIG, plain.batch, [seat.speed for seat in plain.seats])

    def measured(cell: Cell, rank: int):  # type: ignore[no-untyped-def]
        return roofline(cell, 0)  # all ranks as fast as the first

    plan = Plan.parse({"pipeline": {"ranks": 4}})
    found = pipeline_plan(plan, CONFIG, _recipe(), MIXED, of_cell=measured)
    assert found.cut.imbalance < plain.cut.imbalance


def test_replicas_share_the_batch_and_sum_their_gradients() -> None:
    eight = cluster_of("8xA100-80")
    one, two = _plan(eight), _plan(eight, replicas=2, microbatches=8)
    assert (two.batch.sequences, two.tokens) == (2, one.tokens)
    assert [seat.device.index for seat in two.seats] == [0, 2, 4, 6]
    gradients = max(two.costs.static_bytes.values()) / 4
    waits = 2 * topology(eight).latency_seconds(0, 1)
    assert two.replica_seconds == pytest.approx(waits + gradients / 300e9, rel=0.35)  # a ring of two over NVLink
    assert one.replica_seconds == 0
    assert two.update_seconds > one.update_seconds


def test_a_schedule_is_counted_as_it_holds() -> None:
    assert in_flight(gpipe(2, 5), 0, 0) == InFlight(5, 0, 0)
    assert in_flight(make_schedule("1f1b", 4, 8), 1, 1) == InFlight(3, 0, 0)
    assert in_flight(with_recompute(gpipe(2, 5), "always"), 1, 1) == InFlight(1, 5, 0)
    assert in_flight(with_recompute(gpipe(2, 5), "except_last"), 1, 1) == InFlight(1, 4, 0)
    split = in_flight(zb_h1(4, 8), 0, 0)
    assert (split.whole, split.inputs) == (4, 0)
    assert split.queued >= 1


def test_ranks_sit_on_accelerators_or_share_the_cpus() -> None:
    wires = topology(MIXED)
    assert [seat.device.type.name for seat in seats(wires, 4, 1, "bfloat16")] == ["A100-80"] * 2 + ["A10G"] * 2
    tables = {
        "device_types": [
            {
                "name": "CPU",
                "kind": "cpu",
                "flops_per_second": {"float32": 1e11, "bfloat16": 1.1e11},
                "source": "measured",
            }
            | {"memory": [{"name": "RAM", "capacity_bytes": 64 * 10**9, "bytes_per_second": 2e10}]},
        ],
        "nodes": [{"name": "here", "devices": {"CPU": 1}, "cores": 4}],
    }
    cpu = topology(Cluster.parse(tables))
    shared = seats(cpu, 2, 1, "float32")
    assert [seat.about for seat in shared] == ["1/2 of CPU in here"] * 2
    assert shared[0].speed.flops_per_second == 0.8 * 1e11 / 2
    assert shared[0].capacity_bytes == 32e9
    assert compute_dtype(_recipe(), computing(cpu)) == "float32"  # bfloat16 gains too little
    assert compute_dtype(_recipe(precision={"compute": "bfloat16"}), computing(cpu)) == "bfloat16"
    assert compute_dtype(_recipe(), computing(wires)) == "bfloat16"


def test_what_can_not_be_is_refused_in_words() -> None:
    with pytest.raises(GrainlineError, match=r"ranks is 9, and the model has 8 layers: .* Take 8 or fewer"):
        _plan(cluster_of("9xA100-80"), ranks=9)
    with pytest.raises(GrainlineError, match=r"8 ranks need 8 devices, and the cluster has 2 × A100-80, 2 × A10G"):
        _plan(ranks=8)
    with pytest.raises(GrainlineError, match=r"no pipeline schedule '1f1'\. Did you mean '1f1b'"):
        _plan(schedule="1f1")
    with pytest.raises(GrainlineError, match="6 aren't a multiple: take 4 or 8 micro-batches"):
        _plan(schedule="interleaved", microbatches=6)
    with pytest.raises(GrainlineError, match=r"32 sequences can't fill 40 micro-batches. Raise .* to 10240 or more"):
        _plan(microbatches=40)
    with pytest.raises(GrainlineError, match=r"cut can't be: 8 blocks can't be dealt evenly to 3 stages"):
        _plan(ranks=3, cut="equal")
    with pytest.raises(GrainlineError, match=r"cut can't be: a cut of 4 cells \[1, 1, 1, 1\], where the model has 12"):
        _plan(cut=(1, 1, 1, 1))
    with pytest.raises(GrainlineError, match=r"The plan has no \[pipeline\]"):
        pipeline_plan(Plan(), CONFIG, _recipe(), MIXED)
    with pytest.raises(GrainlineError, match="no rate for float32 is told"):
        _plan(cluster_of("4xTPU v4"), recipe=_recipe(precision={"compute": "float32"}))


def test_memory_that_is_short_is_told_by_rank_and_part() -> None:
    tables = MIXED.tables()
    for device in tables["device_types"]:
        device["memory"][0]["capacity_bytes"] = 40_000_000
    small = Cluster.parse(tables)
    said = r"rank \d \(A10\w+ in \w\) with .*block.* needs [\d.]+ GB, and has 0.04 GB: parameters [\d.]+ GB, gradients"
    for wanted in ("auto", "equal", (3, 2, 2, 5)):
        with pytest.raises(GrainlineError, match=said):
            _plan(small, cut=wanted)


def test_sums_of_what_ranks_share_follow_the_passes() -> None:
    slow, fast = (_plan(cluster_of(f"2xA100-80 + 2xA100-80@{link}")) for link in ("1GbE", "100GbE"))
    table = 4 * CONFIG.vocab_size * CONFIG.hidden_size  # MTP's embedding, and the heads' output layer
    assert slow.shared_seconds > table / 125e6 > fast.shared_seconds > 0
    assert slow.update_seconds - slow.shared_seconds == pytest.approx(fast.update_seconds - fast.shared_seconds)
