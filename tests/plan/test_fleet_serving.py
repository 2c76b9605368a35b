"""Throughput, profiles and the simulator of replicas, held against each other and against hand counts."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from grainline.documents import Attention, GrainlineError, ModelConfig
from grainline.documents.traffic import Traffic
from grainline.plan.fleet.choose import FleetPlan, choose, problem_of
from grainline.plan.fleet.engine import Engine, Served
from grainline.plan.fleet.profile import ServingProfile, profiled
from grainline.plan.fleet.sensitivity import by_price, by_rate
from grainline.plan.fleet.simulate import play
from grainline.plan.fleet.types import by_name, listed_types
from grainline.plan.serving.replica import listed_replica
from grainline.plan.serving.throughput import Objective, Size, throughput
from grainline.plan.serving.times import Chunk, Times

LLAMA = ModelConfig(
    family="llama",
    vocab_size=32000,
    hidden_size=4096,
    layers=32,
    ffn_hidden=11008,
    attention=Attention(heads=32, head_dim=128),
)
CHAT = Traffic.parse({"rate": 4, "mix": [{"preset": "chat"}]})
OBJECTIVE = Objective(0.12, 2.0)


def test_one_request_alone_takes_its_steps() -> None:
    """Prompt in two chunks, then one step a token: added up by hand."""
    times = Times(listed_replica("A100-80", LLAMA))
    engine, request = Engine(times), Served(1.0, 0, Size(3000, 5))
    engine.advance(1.0)
    engine.take(request, 1.0)
    engine.advance(math.inf)
    prompt = times.step(0, 0, Chunk(2048)) + times.step(0, 0, Chunk(952, 2048))
    assert request.ttft_seconds == pytest.approx(prompt)
    steps = [times.step(1, 3001 + i) for i in range(4)]
    assert request.tpot_seconds == pytest.approx(sum(steps) / 4, rel=1e-3)
    assert engine.load == 0


def test_a_cached_prompt_is_read_sooner() -> None:
    times = Times(listed_replica("A100-80", LLAMA))
    firsts = []
    for cached in (0, 1500):
        engine, request = Engine(times), Served(0.0, 0, Size(2000, 2, cached))
        engine.take(request, 1.0)
        engine.advance(math.inf)
        firsts.append(request.ttft_seconds)
    assert firsts[1] < 0.5 * firsts[0]


def test_memory_is_never_passed_and_all_are_served() -> None:
    times = Times(listed_replica("A10G", LLAMA))
    engine = Engine(times)
    requests = [Served(0.01 * i, 0, Size(2000, 50)) for i in range(40)]
    most = int(times.replica.cache_tokens // 2050)
    for request in requests:
        engine.advance(request.arrival)
        engine.take(request, 1.0)
        assert len(engine._running) + len(engine.reading) <= most
    engine.advance(math.inf)
    assert all(request.last > request.first > request.arrival for request in requests)
    assert engine._reserved == pytest.approx(0)
    firsts = [request.first for request in requests]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("name", ["A10G", "A100-80"])
@pytest.mark.parametrize("size", [Size(100, 100), Size(1000, 200)])
def test_throughput_keeps_the_objective_in_the_simulator_and_not_much_more_does(name, size) -> None:
    """The closed form's rate keeps nearly all within; well above it TTFT or TPOT break down."""
    kind = listed_types((name,), LLAMA)[0]
    objective = Objective(0.08, 1.5)
    found = throughput(kind.times, size, objective)
    traffic = Traffic.parse({"rate": 1, "input_edges": [size.input], "output_edges": [size.output], "shares": [[1.0]]})
    shares = []
    for factor in (0.85, 2.0):
        at = Traffic.parse({**traffic.tables(), "rate": found.requests_per_second * factor})
        profile = profiled((kind,), at, objective)
        fleet = choose(profile, problem_of(profile, at.requests_per_second, prices={name: 1}, ceiling=1.0)).fleet
        fleet = replace(fleet, counts=(1,))
        shares.append(play(profile, fleet, requests=1500, sizes="upper").within)
    assert shares[0] >= 0.99
    assert shares[1] < 0.6


def test_a_tighter_objective_or_a_longer_request_never_serves_more() -> None:
    times = Times(listed_replica("A100-80", LLAMA))
    rates = [throughput(times, Size(500, 200), Objective(ms / 1e3)).requests_per_second for ms in (15, 25, 50, 200)]
    assert rates == sorted(rates)
    longer = [throughput(times, Size(n, 200), Objective(0.05)).requests_per_second for n in (100, 1000, 8000)]
    assert longer == sorted(longer, reverse=True)
    mean, tail = (throughput(times, Size(500, 200), Objective(0.03, quantile=q)) for q in (None, 0.99))
    assert tail.requests_per_second < mean.requests_per_second


def test_limits_are_named() -> None:
    small = Times(listed_replica("A10G", LLAMA))
    assert throughput(small, Size(20_000, 100), Objective(1.0)).limit == "memory"
    assert throughput(small, Size(100, 100), Objective(0.01)).limit == "TPOT"
    assert throughput(small, Size(4000, 100), Objective(1.0, 0.1)).limit == "TTFT"
    assert throughput(small, Size(4000, 100), Objective(1.0, 0.1)).requests_per_second == 0


def test_the_reason_and_the_remedy_of_traffic_that_nobody_can_serve() -> None:
    profile = profiled(listed_types(("A10G", "A100-80"), LLAMA), CHAT, Objective(0.005, 2.0))
    with pytest.raises(GrainlineError) as caught:
        choose(profile, problem_of(profile, 4))
    said = str(caught.value)
    assert "A10G needs 30 ms TPOT alone" in said
    remedy = float(said.split("--tpot ")[1].split()[0])
    again = profiled(profile.types, CHAT, Objective(remedy / 1e3, 2.0))
    assert choose(again, problem_of(again, 4)).fleet.cost > 0


def test_memory_that_lacks_is_told() -> None:
    documents = Traffic.parse({"rate": 1, "input_edges": [30000], "output_edges": [100], "shares": [[1.0]]})
    profile = profiled(listed_types(("A10G",), LLAMA), documents, OBJECTIVE)
    with pytest.raises(GrainlineError, match="A10G lacks memory") as caught:
        choose(profile, problem_of(profile, 1))
    assert "Add a type with more memory" in str(caught.value)


def test_the_choice_is_kept_as_a_file_that_a_router_reads(tmp_path: Path) -> None:
    types = listed_types(("A10G", "A100-80", "2xA10G"), LLAMA)
    profile = profiled(types, CHAT, OBJECTIVE)
    chosen = choose(profile, problem_of(profile, 4))
    FleetPlan.of(chosen, "Llama-2-7B", "chat").save(tmp_path / "fleet.toml")
    plan = FleetPlan.load(tmp_path / "fleet.toml")
    assert sum(kind.count * (kind.price_per_hour or 0) for kind in plan.types) == pytest.approx(plan.cost)
    assert sum(plan.shares_of(70, 200).values()) == pytest.approx(1)
    with pytest.raises(GrainlineError, match="wasn't planned for requests of 99999"):
        plan.shares_of(99999, 1)


def test_requests_within_the_objective_and_the_shares_that_were_planned() -> None:
    profile = profiled(listed_types(("A10G", "A100-80"), LLAMA), CHAT, OBJECTIVE)
    chosen = choose(profile, problem_of(profile, 6))
    played = play(profile, chosen.fleet, requests=1200)
    assert played.within >= 0.99
    assert played.requests == pytest.approx(0.8 * 1200, abs=1)
    assert play(profile, chosen.fleet, requests=1200).tpot_seconds == played.tpot_seconds  # same seed
    halved = replace(chosen.fleet, counts=tuple(min(n, 1) for n in chosen.fleet.counts))
    crowded = replace(halved, problem=replace(halved.problem, rates=tuple(r * 8 for r in halved.problem.rates)))
    assert play(profile, crowded, requests=1200).within < 0.9


def test_power_in_place_of_price() -> None:
    types = listed_types(("L4", "H100"), LLAMA)
    profile = profiled(types, CHAT, OBJECTIVE)
    watts = problem_of(profile, 4, minimise="power")
    assert watts.prices == (72, 700)


def test_prices_by_name_are_checked() -> None:
    assert by_name("price", {"a100": 2.0}, ("A100-80", "A10G")) == {"A100-80": 2.0}
    assert by_name("price", {"2xa100": 2.0}, ("2xA100-80",)) == {"2xA100-80": 2.0}
    with pytest.raises(GrainlineError, match="no such type"):
        by_name("price", {"H100": 2.0}, ("A10G",))
    with pytest.raises(GrainlineError, match="can't be negative"):
        by_name("price", {"A10G": -1.0}, ("A10G",))
    profile = profiled(listed_types(("H200",), LLAMA), CHAT, OBJECTIVE)
    with pytest.raises(GrainlineError, match="no price is published"):
        problem_of(profile, 4)
    with pytest.raises(GrainlineError, match="a whole number"):
        problem_of(profile, 4, prices={"H200": 4}, stock={"H200": 1.5})


def test_sweeps_pass_through_the_choice() -> None:
    profile = profiled(listed_types(("A10G", "A100-80"), LLAMA), CHAT, OBJECTIVE)
    problem = problem_of(profile, 4)
    cost = choose(profile, problem).fleet.cost
    rates = by_rate(problem, (0.5, 1.0, 2.0))
    assert rates.points[1].cost == pytest.approx(cost, rel=2e-3)
    assert rates.points[0].cost <= rates.points[1].cost <= rates.points[2].cost
    prices = by_price(problem, 0, (0.5, 1.0, 2.0))
    assert prices.points[0].cost <= prices.points[1].cost <= prices.points[2].cost


MEASURED = {
    "model": "toy",
    "tpot_seconds": 0.12,
    "input_edges": [250, 1000],
    "output_edges": [100, 500],
    "types": [
        {"name": "A10G", "price_per_hour": 1.01, "requests_per_second": [[5, 1], [10, 5]]},
        {"name": "A100", "price_per_hour": 3.67, "requests_per_second": [[20, 2], [50, 20]]},
    ],
}
TWO_BY_TWO = Traffic.parse(
    {"rate": 16, "input_edges": [250, 1000], "output_edges": [100, 500], "shares": [[0.25, 0.125], [0.375, 0.25]]}
)


def test_a_measured_profile_gives_the_toys_answer() -> None:
    measured = ServingProfile.parse(MEASURED)
    profile = measured.of(TWO_BY_TWO, Objective(0.12), "toy")
    chosen = choose(profile, problem_of(profile, 16, ceiling=1.0))
    assert chosen.fleet.counts == (5, 0)
    with pytest.raises(GrainlineError, match="measured figures only"):
        play(profile, chosen.fleet)


def test_a_measured_profile_of_something_else_is_refused() -> None:
    measured = ServingProfile.parse(MEASURED)
    with pytest.raises(GrainlineError, match=r"tpot_seconds 0.12, and 0.04 is asked for"):
        measured.of(TWO_BY_TWO, Objective(0.04), "toy")
    with pytest.raises(GrainlineError, match="model toy, and other is asked for"):
        measured.of(TWO_BY_TWO, Objective(0.12), "other")
    assert measured.of(TWO_BY_TWO, Objective(0.04), "other", force=True).types[0].name == "A10G"
    with pytest.raises(GrainlineError, match="its buckets end at"):
        measured.of(CHAT, Objective(0.12), "toy")
    with pytest.raises(GrainlineError, match="isn't 2 × 2"):
        ServingProfile.parse({**MEASURED, "types": [{"name": "A", "requests_per_second": [[1]]}]})


@pytest.mark.parametrize("objective", [(-1.0, None), (0.1, 0.0), (math.inf, None)])
def test_objectives_are_positive(objective) -> None:
    with pytest.raises(GrainlineError, match="must be positive"):
        Objective(*objective)
