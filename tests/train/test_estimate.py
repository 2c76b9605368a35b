"""The dry run's figures against counting, and what is decided from them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from grainline.documents import ModelConfig, Plan, Recipe
from grainline.hardware import Accelerator, Machine
from grainline.models.build import build
from grainline.models.count import flops_per_token
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.loss import loss_sums
from grainline.parallel import Ranks
from grainline.plan import memory
from grainline.plan.memory import MicroBatch
from grainline.schedule.cells import cells_of
from grainline.train.decide import crowding, decide, estimate_run, peak_flops
from grainline.train.estimate import UTILISATION, activation_bytes, estimate
from grainline.train.optim import Optimizer

CPU = Ranks(torch.device("cpu"))
MACHINE = Machine(
    system="Linux",
    architecture="x86_64",
    cpu="made up",
    cpu_features=(),
    physical_cores=8,
    logical_cores=16,
    usable_cores=8,
    threads=8,
    memory_bytes=64 << 30,
    memory_available_bytes=32 << 30,
    disk_path=".",
    disk_free_bytes=1 << 40,
    torch="2.13.0",
    flops_per_second={"float32": 1e11, "bfloat16": 3e11},
)
GPU = dataclasses.replace(
    MACHINE, accelerators=(Accelerator("gpu", "cuda", 80 << 30, "9.0", {"float32": 5e13, "bfloat16": 7e14}),)
)


def _recipe(**tables: object) -> Recipe:
    base = {
        "model": {"depth": 3},
        "data": {"sequence_length": 64},
        "training": {"steps": 50, "batch_tokens": 512},
        "learning_rate": {"peak": 1e-3},
    }
    return Recipe.parse(base | tables)


def _saved_bytes(config: ModelConfig, sequences: int, compute: str, recompute: bool = False) -> int:
    """What autograd keeps of a forward pass, weights left out."""
    model = build(config)
    model.compute_dtype = getattr(torch, compute)
    model.recompute = recompute
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its place could be given to another
        return tensor

    ids_BS1 = torch.randint(0, config.vocab_size, (sequences, 65), generator=torch.Generator().manual_seed(0))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        sums = loss_sums(model, ids_BS1)
    assert sums.tokens == sequences * 64
    return sum(kept.values())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("dense", [False, True])
def test_activations_are_within_a_quarter_of_what_autograd_saves(compute: str, dense: bool) -> None:
    config = config_for_depth(4, 512, 64)
    config = dense_twin(config) if dense else config
    found = {n: _activations(config, n, compute) / _saved_bytes(config, n, compute) for n in (2, 4)}
    assert all(0.95 <= of <= 1.25 for of in found.values()), found


def _activations(config: ModelConfig, sequences: int, compute: str, recompute: bool = False) -> int:
    batch = MicroBatch(sequences, 64, compute, writes_scores=compute == "bfloat16")
    return activation_bytes(config, batch, recompute)


@pytest.mark.parametrize("dense", [False, True])
def test_recomputed_blocks_keep_their_inputs_and_one_of_them_everything(dense: bool) -> None:
    config = config_for_depth(8, 512, 64)
    config = dense_twin(config) if dense else config
    saved = _saved_bytes(config, 4, "float32", recompute=True)
    largest = max(memory.kept_bytes(config, cell, MicroBatch(4, 64, "float32")) for cell in cells_of(config)[1:-1])
    again = _activations(config, 4, "float32", recompute=True)
    assert 0.95 <= (again - largest) / saved <= 1.25
    assert again < _activations(config, 4, "float32") / 2


def _estimate(recipe: Recipe, config: ModelConfig, **changes: object):  # type: ignore[no-untyped-def]
    options = {
        "micro_batch_sequences": 2,
        "compute": "float32",
        "device": "cpu",
        "recompute": False,
        "ranks": 1,
        "sharded": False,
        "data_bytes": 0,
        "flops_per_second": 1e11,
    }
    return estimate(recipe, config, **(options | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_state_is_counted_as_it_is_allocated(kind: str) -> None:
    config = config_for_depth(3, 512, 64)
    recipe = _recipe(optimizer={"kind": kind})
    model = build(config)
    optimizer = Optimizer(model.named_parameters(), recipe.optimizer)
    need = _estimate(recipe, config)
    assert need.memory.parameters == sum(p.nbytes for p in model.parameters())
    held = sum(t.nbytes for t in optimizer.tensors().values())
    assert need.memory.optimizer == pytest.approx(held, rel=0.03)  # routers and gains are AdamW's too
    sharded = _estimate(recipe, config, ranks=4, sharded=True)
    assert sharded.memory.optimizer == need.memory.optimizer // 4
    assert _estimate(recipe, config, ranks=4).memory.optimizer == need.memory.optimizer


def test_time_is_flops_over_rate() -> None:
    config, recipe = config_for_depth(3, 512, 64), _recipe()
    need = _estimate(recipe, config)
    assert need.tokens == 50 * 512
    assert need.flops == need.tokens * flops_per_token(config, 64)
    assert need.seconds == pytest.approx(need.flops / (1e11 * UTILISATION))
    assert _estimate(recipe, config, flops_per_second=None).seconds is None


def test_disk_grows_with_what_is_kept_and_merged() -> None:
    config = config_for_depth(3, 512, 64)
    few = _estimate(_recipe(checkpoint={"keep": 1}), config).disk
    many = _estimate(_recipe(checkpoint={"keep": 5}), config).disk
    assert many.checkpoints == 3 * few.checkpoints
    wsm = {"peak": 1e-3, "schedule": "wsm", "merge_checkpoints": 7}
    merged = _estimate(_recipe(learning_rate=wsm), config)
    assert merged.disk.weights > few.weights + 7 * merged.memory.parameters
    assert merged.as_dict()["disk"]["total"] == merged.disk.total


def test_what_is_open_is_decided_from_the_machine() -> None:
    recipe, config = _recipe(), config_for_depth(3, 512, 64)
    found = decide(recipe, Plan(), config, MACHINE, CPU, {})
    assert (found.compute, found.threads, found.micro_batch_sequences) == ("bfloat16", 8, 8)
    slow = dataclasses.replace(MACHINE, flops_per_second={"float32": 1e11, "bfloat16": 1e11})
    assert decide(recipe, Plan(), config, slow, CPU, {}).compute == "float32"
    unmeasured = dataclasses.replace(MACHINE, flops_per_second={})
    assert decide(recipe, Plan(), config, unmeasured, CPU, {}).compute == "float32"
    assert peak_flops(unmeasured, CPU, "float32") is None
    two = Ranks(torch.device("cpu"), rank=1, world=2, local_world=2)
    assert decide(recipe, Plan(), config, MACHINE, two, {}).threads == 4
    assert peak_flops(MACHINE, two, "bfloat16") == 3e11
    gpus = Ranks(torch.device("cuda", 0), world=4, local_world=4)
    assert decide(recipe, Plan(), config, GPU, gpus, {}).compute == "bfloat16"
    rates = {"float32": 1.4e13, "bfloat16": 1e13}  # a V100 has bfloat16 matmuls, but slow ones
    old = dataclasses.replace(GPU, accelerators=(Accelerator("V100", "cuda", 32 << 30, "7.0", rates),))
    assert decide(recipe, Plan(), config, old, gpus, {}).compute == "float32"
    assert peak_flops(GPU, gpus, "bfloat16") == 4 * 7e14


def test_long_runs_on_gpus_are_compiled_where_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    config, gpu = config_for_depth(3, 512, 64), Ranks(torch.device("cuda", 0))
    long, short = (_recipe(training={"steps": steps, "batch_tokens": 512}) for steps in (2000, 1999))

    def compiles(recipe: Recipe, ranks: Ranks, plan: Plan | None = None) -> bool:
        return decide(recipe, plan or Plan(), config, GPU, ranks, {}).plan.execution.compile == "on"

    monkeypatch.setattr("grainline.train.decide.can_compile", lambda: True)
    assert [compiles(long, gpu), compiles(short, gpu), compiles(long, CPU)] == [True, False, False]
    asked, refused = (Plan.parse({"execution": {"compile": word}}) for word in ("on", "off"))
    assert [compiles(short, CPU, asked), compiles(long, gpu, refused)] == [True, False]
    monkeypatch.setattr("grainline.train.decide.can_compile", lambda: False)
    assert [compiles(long, gpu), compiles(long, gpu, asked)] == [False, True]


def test_micro_batches_shrink_to_the_memory_there_is() -> None:
    recipe, config = _recipe(training={"steps": 5, "batch_tokens": 128 * 64}), config_for_depth(8, 4096, 64)
    found = decide(recipe, Plan(), config, MACHINE, CPU, {})
    need = estimate_run(recipe, config, found, MACHINE, CPU, 0).memory.total
    tight = dataclasses.replace(MACHINE, memory_available_bytes=int(need))
    smaller = decide(recipe, Plan(), config, tight, CPU, {})
    assert 1 < smaller.micro_batch_sequences < found.micro_batch_sequences == 128
    assert estimate_run(recipe, config, smaller, tight, CPU, 0).memory.total <= 0.6 * need


def test_a_resumed_run_decides_as_before_on_the_same_kind_of_device() -> None:
    recipe, config = _recipe(), config_for_depth(3, 512, 64)
    before = {"device": "cpu", "compute": "float32", "threads": 3, "micro_batch_sequences": 5, "ranks": 1}
    found = decide(recipe, Plan(), config, MACHINE, CPU, before)
    assert (found.compute, found.threads, found.micro_batch_sequences) == ("float32", 3, 5)
    elsewhere = decide(recipe, Plan(), config, MACHINE, CPU, before | {"device": "cuda"})
    assert elsewhere.micro_batch_sequences == 8
    asked = Plan.parse({"execution": {"micro_batch_sequences": 2}})
    assert decide(recipe, asked, config, MACHINE, CPU, before).micro_batch_sequences == 2


def test_a_run_resumed_by_another_number_of_ranks_takes_what_suits_them() -> None:
    recipe, config = _recipe(), config_for_depth(3, 512, 64)
    before = {"device": "cpu", "compute": "float32", "threads": 8, "micro_batch_sequences": 8, "ranks": 1}
    two = Ranks(torch.device("cpu"), world=2, local_world=2)
    found = decide(recipe, Plan(), config, MACHINE, two, before)
    assert (found.compute, found.threads, found.micro_batch_sequences) == ("float32", 4, 4)


def test_what_experts_would_send_is_told() -> None:
    config = config_for_depth(3, 512, 64)
    assert config.moe is not None
    costless = {"zero": 1, "copy_experts": 1, "constant": 6, "router": "gating-residual", "bias_balanced": False}
    config = config.model_copy(update={"moe": config.moe.model_copy(update=costless)})
    decided = decide(_recipe(), Plan(), config, MACHINE, CPU, {})
    found = estimate_run(_recipe(), config, decided, MACHINE, CPU, 10**6)
    assert found.experts is not None
    assert found.experts.ffns_per_token == pytest.approx(4 * 0.75)  # 32 experts of weight 0.75 beside 8 costless ones
    assert found.as_dict()["experts"]["sent_share"] == pytest.approx(0.75)
    assert found.experts.sent_bytes == pytest.approx(2 * 3 * 96 * (2 if decided.compute == "bfloat16" else 4))
    dense = dense_twin(config)
    assert estimate_run(_recipe(), dense, decided, MACHINE, CPU, 10**6).experts is None


def test_more_threads_than_cores_are_remarked_on() -> None:
    assert crowding(8, MACHINE) is None
    said = crowding(64, MACHINE) or ""
    assert said.startswith("64 threads share 8 cores and wait for each other")
    assert "leave out execution.threads, or set 8" in said
