"""Plans as flags of other engines: by hand for public models, and back from the flags."""

from __future__ import annotations

import re
import shlex

import pytest

from grainline.documents import GrainlineError, Plan
from grainline.documents.plan import Execution, Layout, Pipeline
from grainline.hardware.shorthand import cluster_of
from grainline.models.catalogue import models
from grainline.plan.export import EXPORTS, Run
from grainline.plan.export.megatron import stage_letters
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.planned import to_plan
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import strategies
from grainline.plan.layouts.strategy import Strategy
from grainline.schedule.cells import cells_of

LING = models().get("Ling-flash-2.0").config
STRATEGY = Strategy(
    tensor=2, context=2, data=2, pipeline=4, expert=8, sequences=1, chunks=2, schedule="interleaved", shard="optimizer"
)


def flags(engine: str, run: Run) -> dict[str, str | None]:
    """As a shell would pass them on."""
    script = EXPORTS[engine](run).script().replace("\\\n", " ")
    words = shlex.split(script.splitlines()[-1].replace('"$@"', ""))
    found: dict[str, str | None] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = None if after.startswith("--") else after
    return found


def run_of(strategy: Strategy = STRATEGY, cut: tuple[int, ...] = ()) -> Run:
    """Ling-flash in batches of 64 sequences."""
    return Run(to_plan(strategy, 64, cut), LING, "Ling-flash-2.0", 64, 4096)


def test_megatron_s_sizes_are_the_strategy_s() -> None:
    """And the model's are its config's."""
    found = flags("megatron", run_of())
    sizes = {
        "--tensor-model-parallel-size": "2",
        "--context-parallel-size": "2",
        "--pipeline-model-parallel-size": "4",
        "--expert-model-parallel-size": "8",
        "--num-virtual-stages-per-pipeline-rank": "2",
        "--micro-batch-size": "1",
        "--global-batch-size": "64",
        "--num-layers": "32",
        "--num-query-groups": "4",
        "--num-experts": "256",
        "--moe-layer-freq": "([0]*1+[1]*31)",
        "--rotary-percent": "0.5",
        "--nnodes": "4",
        "--nproc-per-node": "8",
    }
    assert {key: found[key] for key in sizes} == sizes
    assert {"--use-distributed-optimizer", "--sequence-parallel", "--qk-layernorm"} <= set(found)


def test_megatron_s_letters_spell_the_cut() -> None:
    """Each stage's letters, expanded, are its cells."""
    cells = cells_of(LING)
    cut = (5, 8, 9, 9, len(cells) - 31)
    letters = stage_letters(cells, cut)
    stages = [re.sub(r"(.)\*(\d+)", lambda m: m[1] * int(m[2]), stage) for stage in letters.split("|")]
    assert "".join(stages) == "E" + "t" * 32 + "mL"
    assert [len(stage) for stage in stages[:4]] == list(cut[:4])
    with pytest.raises(GrainlineError, match="adds up to 3 cells"):
        stage_letters(cells, (1, 2))


def test_torchtitan_names_modules_and_refuses_what_it_lacks() -> None:
    """FSDP in place of a sharded optimiser; Qwen has no MTP."""
    config = models().get("Qwen3-30B-A3B").config
    plan = Plan(
        layout=Layout(data_parallel=4, expert_parallel=4),
        execution=Execution(micro_batch_sequences=1),
        pipeline=Pipeline(ranks=2, schedule="1f1b", microbatches=16, cut=(25, 25)),
    )
    found = flags("torchtitan", Run(plan, config, "Qwen3-30B-A3B", 64, 4096))
    modules = found["--parallelism.pipeline_parallel_module_fqns_per_model_part"]
    assert modules is not None
    assert modules.startswith("[['tok_embeddings', 'layers.0'")
    assert modules.endswith("'norm', 'output']]")
    assert found["--parallelism.num_pp_microbatches"] == "16"
    with pytest.raises(GrainlineError, match="sharded optimizer, which torchtitan doesn't have"):
        EXPORTS["torchtitan"](run_of())


def test_vllm_and_what_none_of_them_has() -> None:
    """A layout of eight, and paths through a pipeline."""
    assert flags("vllm", Run(Plan(layout=Layout(tensor_parallel=8)), LING, "x/y", 1, 32768)) == {
        "--tensor-parallel-size": "8",
        "--max-model-len": "32768",
    }
    plan = Plan(pipeline=Pipeline(ranks=2, vocabulary="vocab1"))
    with pytest.raises(GrainlineError, match="vocabulary parallelism"):
        EXPORTS["megatron"](Run(plan, LING, "x", 64, 4096))


def test_unlike_nodes_can_t_be_launched() -> None:
    """torchrun starts as many processes on each."""
    plan = Plan(layout=Layout(data_parallel=3, devices=("a:0", "a:1", "b:0")))
    with pytest.raises(GrainlineError, match="a 2, b 1"):
        EXPORTS["megatron"](Run(plan, LING, "x", 3, 4096))


@pytest.mark.parametrize("engine", ["megatron", "torchtitan"])
@pytest.mark.parametrize("model", ["Qwen3-30B-A3B", "Llama-3.1-8B"])
def test_whatever_is_planned_for_an_engine_can_be_told_to_it(engine: str, model: str) -> None:
    """Every layout of the space."""
    config = models().get(model).config
    fleet = Fleet.of(cluster_of("2x(4xA100-80)@HDR"))
    problem = Problem(Shape.of(config), fleet, ENGINES[engine], 16, 4096)
    layouts = list(strategies(problem))
    assert len(layouts) > 50
    for strategy in layouts:
        EXPORTS[engine](Run(to_plan(strategy, 16), config, model, 16, 4096))
