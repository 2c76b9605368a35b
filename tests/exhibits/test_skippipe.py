"""The SkipPipe exhibit: its cities, its simulations against hand counts, its small models, and a quick run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from grainline.exhibits import skippipe, skippipe_cities, skippipe_training
from grainline.exhibits.frame import Scale
from grainline.exhibits.skippipe_training import KINDS, STAGES, Kind, cells, mean_over_visits, model, orders
from grainline.models.build import build
from grainline.models.cells import Batch, Carry
from grainline.models.loss import loss_sums, run_cells
from grainline.plan.skip.check import check_routes


def test_cities_lie_within_what_was_measured() -> None:
    pairs = [(a, b) for a in skippipe_cities.CITIES for b in skippipe_cities.CITIES if a != b]
    latencies = [skippipe_cities.latency_seconds(*pair) for pair in pairs]
    rates = [skippipe_cities.bytes_per_second(*pair) for pair in pairs]
    assert (min(latencies), max(latencies)) == pytest.approx((0.003, 0.132))
    assert 0.009e9 < min(rates) < 0.01e9
    assert max(rates) == 0.24e9
    assert skippipe_cities.latency_seconds("Sydney", "Saint-Ghislain") == pytest.approx(0.129, rel=0.03)
    assert skippipe_cities.bytes_per_second("Sydney", "Saint-Ghislain") == pytest.approx(0.0098e9, rel=0.03)
    hop = skippipe_cities.transfer_seconds()
    assert hop[0][12] == pytest.approx(0.35 + 1e-3 + 8 * 1024 * 1024 * 4 / 1e9)  # both in Sydney
    assert all(hop[a][b] == hop[b][a] for a in range(20) for b in range(20))


def test_a_lone_micro_batch_takes_what_its_hops_and_visits_take() -> None:
    stages = skippipe_cities.placed(0, 5)
    problem = skippipe_cities.problem(stages, 4)
    assert (problem.agents, Counter(problem.starts)) == (15, Counter(dict.fromkeys(stages[0], 3)))
    route = (stages[0][0], stages[1][0], stages[2][1], stages[4][2])
    hops = sum(problem.transfer_seconds[x][y] for x, y in zip(route, (*route[1:], route[0]), strict=True))
    from grainline.plan.skip.judge import judge, schedule_of

    alone = judge(schedule_of(problem, [route], 1), skippipe_cities.setting(problem))
    assert alone.makespan == pytest.approx(2 * hops + 4 * 2.5 * 1.76 + 1.76 / 4)


def test_all_methods_obey_and_gradients_take_their_time() -> None:
    found = skippipe.steps(0, True)
    for plan in found.plans.values():
        assert not list(check_routes(plan.problem, plan.routes))
        assert plan.microbatches == 45
    assert found.ratio("aware", "full") < found.ratio("random", "full") < 1
    assert found.ratio("aware", "unaware") <= 1
    plan = found.plans["aware"]
    assert skippipe.with_all_reduce(plan) > plan.expected_seconds + 5


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_stage_is_trained_alike(kind: Kind) -> None:
    along = orders(kind, 0)
    assert len(along) == skippipe_training.MICROBATCHES
    assert sorted({len(order) for order in along}) == sorted(kind.lengths)
    visits = Counter(stage for order in along for stage in order)
    assert visits[0] == len(along) or not kind.keeps_first
    others = [visits[stage] for stage in range(STAGES) if stage or not kind.keeps_first]
    assert max(others) - min(others) <= (0 if kind.keeps_first else len(along) * 4 % STAGES)
    assert all(len(set(order)) == len(order) for order in along)


def test_gradients_are_means_over_those_that_came_by() -> None:
    torch.manual_seed(0)
    net = build(model(), dtype=torch.float64)
    batches = [Batch.of(net.config, torch.randint(0, 1024, (1, 9))) for _ in range(2)]
    paths = [(0, 1, 2), (0, 3, 2)]
    for batch, order in zip(batches, paths, strict=True):
        run_cells(net, cells(order), batch, Carry())[1].cross_entropy.backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    mean_over_visits(net, [1, 0.5, 1, 0.5, 0, 0])
    for name, parameter in net.named_parameters():
        if name.startswith(("blocks.4", "blocks.5")):
            assert parameter.grad is None  # so that the optimiser passes it over
        else:
            times = 2 if name.startswith(("blocks.1", "blocks.3")) else 1
            assert torch.equal(parameter.grad, times * before[name])  # type: ignore[arg-type]


def test_a_full_path_is_the_model_itself() -> None:
    net = build(model())
    ids = torch.randint(0, 1024, (2, 17), generator=torch.Generator().manual_seed(1))
    _, sums = run_cells(net, cells(range(STAGES)), Batch.of(net.config, ids), Carry())
    assert sums.cross_entropy.item() == loss_sums(net, ids).cross_entropy.item()


@pytest.mark.slow
def test_models_are_trained_and_scored(tmp_path: Path) -> None:
    claim = skippipe.CONVERGENCE
    told: list[str] = []
    found = skippipe.MEASURES[claim](Scale.of(claim, True, tmp_path, told.append))
    assert 0.9 < found.measured < 1.1
    assert sum("nats" in line for line in told) == len(KINDS)
    again = skippipe.MEASURES[skippipe.RESISTANCE](Scale.of(skippipe.RESISTANCE, True, tmp_path))
    assert again.measured == pytest.approx(lost(again.details, "third") / lost(again.details, "full"))


def lost(details: Mapping[str, Any], kind: str) -> float:
    (losses,) = details["nats by stages left out"][kind]
    assert len(losses) == 4
    return float(losses[2] - losses[0])
