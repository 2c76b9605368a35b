"""What operators ask for and keep: against the FLOPs of `models.count`, published formulas and plan/memory.py."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from grainline.documents import GrainlineError, ModelConfig
from grainline.hardware.shorthand import cluster_of
from grainline.models.count import flops_per_token, parameters
from grainline.plan import memory as own
from grainline.plan.layouts import operators, pricing
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.load import Imbalance, of_counts
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.rows import between
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.step import evaluate
from grainline.plan.layouts.strategy import Strategy
from grainline.plan.layouts.work import Load, Setting, flops
from grainline.schedule.cells import cells_of

GQA = {"kind": "gqa", "heads": 8, "kv_heads": 2, "head_dim": 32}
MLA = {"kind": "mla", "heads": 8, "head_dim": 32, "q_rank": 96, "kv_rank": 64, "rope_dim": 16, "value_dim": 32}
CCA = {"kind": "cca", "heads": 8, "kv_heads": 2, "head_dim": 16}
MOE = {"experts": 16, "top_k": 4, "expert_hidden": 64, "shared_experts": 1, "dense_layers": (0,)}
EVEN = Load()


def config(attention: dict[str, object], moe: dict[str, object] | None = None, **further: object) -> ModelConfig:
    """A small model."""
    plain = {"vocab_size": 512, "hidden_size": 256, "layers": 3, "ffn_hidden": 640}
    return ModelConfig.model_validate({**plain, "attention": attention, "moe": moe, **further})


def problem(
    model: ModelConfig | Shape, engine: str = "megatron", batch: int = 8, cluster: str = "8xA100-80"
) -> Problem:
    """With evenly chosen experts."""
    shape = model if isinstance(model, Shape) else Shape.of(model)
    return Problem(shape, Fleet.of(cluster_of(cluster)), ENGINES[engine], batch, 256, imbalance=EVEN)


@pytest.mark.parametrize(
    "model",
    [
        config(GQA),
        config(MLA),
        config({**MLA, "q_rank": None}),
        config(CCA),
        config(GQA, MOE),
        config(MLA, {**MOE, "expert": "bottleneck", "latent": 64}, mtp_depth=1),
        config(GQA, {**MOE, "router": "depth-averaged", "router_hidden": 32}),
    ],
    ids=["gqa", "mla", "mla without q_rank", "cca", "moe", "bottleneck with mtp", "depth-averaged router"],
)
def test_flops_are_those_of_the_model(model: ModelConfig) -> None:
    """Forward, and twice as many backward, of all cells; what kernels compute twice left out."""
    small = problem(model)
    made = pricing.blocks(small, Strategy())
    for backward in (False, True):
        works = [part.backward if backward else part.forward for cell in small.cells for part in made[cell]]
        found = sum(flops(work) for work in works) / small.length
        assert found == pytest.approx((1 + backward) * flops_per_token(model, small.length, backward=False), rel=1e-9)


@pytest.mark.parametrize("strategy", [Strategy(tensor=4), Strategy(tensor=2, context=2), Strategy(expert=4, data=4)])
def test_ranks_share_the_flops(strategy: Strategy) -> None:
    """Of a layout's row all ranks together have as many as one rank alone; each head of keys is on one of them."""
    model = problem(config({**GQA, "kv_heads": 4}, MOE))

    def forward(st: Strategy) -> float:
        made = pricing.blocks(model, st)
        return sum(flops(part.forward) for cell in model.cells for part in made[cell])

    assert forward(strategy) * strategy.width == pytest.approx(strategy.data * forward(Strategy()), rel=1e-9)


def test_parameters_are_those_of_the_model() -> None:
    """Norms aside."""
    for model in (config(GQA), config(MLA, MOE), config(GQA, MOE, tie_embeddings=True)):
        assert Shape.of(model).parameters == pytest.approx(parameters(model).total, rel=0.005)


@pytest.mark.parametrize("tensor", [1, 2, 8])
@pytest.mark.parametrize("split", [False, True])
def test_kept_is_by_the_published_formulas(tensor: int, split: bool) -> None:
    """Equations 1, 2 and 4 of arXiv 2205.05198, section 4, and without scores section 5's."""
    s, b, h, a, t = 256, 2, 512, 8, tensor
    shape = Shape.gpt(4, h, a, 1024)
    strategy = Strategy(tensor=t, sequences=b, sequence_parallel=split)
    setting = Setting(shape, strategy, ENGINES["megatron-2022"], s)
    attention, ffn = operators.attention(setting), operators.dense(setting)
    whole = 34 / t if split else 10 + 24 / t
    assert attention.kept + ffn.kept == pytest.approx(s * b * h * (whole + 5 * a * s / (h * t)))
    assert attention.kept_light is not None
    assert attention.kept_light + ffn.kept == pytest.approx(s * b * h * whole)


@pytest.mark.parametrize("model", [config(GQA), config(MLA, MOE)], ids=["dense", "moe"])
def test_memory_of_our_own_engine_is_as_plan_memory_counts_it(model: ModelConfig) -> None:
    """State and activations of one rank, to 2 %: the planner leaves norms out."""
    estimate = evaluate(problem(model, "grainline"), Strategy(sequences=2))
    memory = estimate.memory[0]
    batch = own.MicroBatch(2, 256)
    cells = cells_of(model)
    state = own.state_bytes(own.parameters_of_all(model, cells), "adamw")
    assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(state.total, rel=0.02)
    kept = sum(own.kept_bytes(model, cell, batch) for cell in cells)
    assert memory.activations + memory.logits == pytest.approx(kept, rel=0.02)


def test_stages_of_one_node_are_joined_inside_it() -> None:
    """Of eight stages on two nodes of eight devices, two devices each, one message in seven leaves a node."""
    fleet = Fleet.of(cluster_of("2x(8xA100-80)@HDR"))
    *steps, back = between(fleet, Strategy(tensor=2, pipeline=8))
    fast = [step.across_bytes_per_second > 1e11 for step in steps]
    assert fast == [True, True, True, False, True, True, True]
    assert back.across_bytes_per_second < 1e11


def test_eight_bits_halve_operands_and_need_a_device_that_has_them() -> None:
    """Products are quicker and keep less; a card without is refused by name."""
    model = Shape.gpt(8, 4096, 32, 51_200)
    wide, narrow = (
        evaluate(Problem(model, Fleet.of(cluster_of("8xH100")), ENGINES["megatron"], 8, 2048, dtype), Strategy())
        for dtype in ("bfloat16", "float8")
    )
    assert narrow.seconds.compute < wide.seconds.compute
    assert narrow.memory[0].activations < wide.memory[0].activations
    with pytest.raises(GrainlineError, match="no rate for float8"):
        evaluate(Problem(model, Fleet.of(cluster_of("8xA100-80")), ENGINES["megatron"], 8, 2048, "float8"), Strategy())


def test_imbalance_is_that_of_drawn_choices() -> None:
    """A multinomial's busiest rank: mean and 99th percentile over many draws."""
    generator, ranks, choices = np.random.default_rng(0), 16, 16 * 400
    drawn = generator.multinomial(choices, [1 / ranks] * ranks, 4000).max(1) * ranks / choices
    load = Imbalance(deviation=0.0, clump=1.0).load(choices, 64, ranks)
    assert load.time == pytest.approx(drawn.mean(), abs=0.01)
    assert load.memory == pytest.approx(np.quantile(drawn, 0.99), abs=0.01)
    assert Imbalance().load(1e6, 64, 1) == Load()


def test_imbalance_of_a_trace_is_counted() -> None:
    """Against a plain loop; experts that can't be spread are refused."""
    counts = np.random.default_rng(1).integers(0, 50, (200, 8)).tolist()
    largest = [max(sum(row[i : i + 2]) for i in (0, 2, 4, 6)) / (sum(row) / 4) for row in counts]
    found = of_counts(counts, 4)
    assert found.time == pytest.approx(mean(largest))
    assert found.memory == pytest.approx(sorted(largest)[197])
    with pytest.raises(GrainlineError, match="8 experts can't be spread evenly over 3"):
        of_counts(counts, 3)
