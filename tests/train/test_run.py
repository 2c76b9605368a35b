"""Whole runs: what they learn, and that interruptions of every kind change nothing of it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import grainline
from grainline.documents import GrainlineError, Plan, Recipe
from grainline.models.blocks import Block
from grainline.models.dial import config_for_depth
from grainline.models.mtp import MultiTokenPrediction
from grainline.train import TrainingDiverged, TrainingInterrupted, TrainResult, dry_run, read_metrics, train
from grainline.train.checkpoint import CheckpointError, CheckpointFolder, CheckpointSource
from grainline.train.checkpoint import storage as storage_module
from grainline.train.loop import Loop, keeps_loads

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., TrainResult]


@pytest.fixture
def run(one_thread: Plan, data: Path) -> Run:
    """`train` with one thread, on data that is packed once."""

    def run_(recipe: Recipe, out: Path, plan: Plan = one_thread, **options: Any) -> TrainResult:
        return train(recipe, plan, out=out, data=data, quiet=True, **options)

    return run_


def _curve(out: Path) -> list[tuple[Any, ...]]:
    """All that must be equal when a run is equal: no times."""
    keys = ("step", "tokens", "loss", "mtp_loss", "z_loss", "lr", "grad_norm", "imbalance", "validation_loss")
    return [tuple(str(line.get(key)) for key in keys) for line in read_metrics(out / "metrics.jsonl")]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def _same_weights(a: Path, b: Path) -> bool:
    ours, theirs = _weights(a), _weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def _stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGINT) -> None:
    """A signal arrives while step `step` is being told of."""
    tell = Loop._tell

    def tell_and_stop(loop: Loop, line: dict[str, Any], seconds_left: float) -> None:
        tell(loop, line, seconds_left)
        if line["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Loop, "_tell", tell_and_stop)


def test_a_run_learns_and_leaves_a_model_that_can_be_used(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    recipe = tiny(training={"steps": 40})
    result = run(recipe, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[0]["loss"] == pytest.approx(math.log(300), rel=0.05)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert [line["step"] for line in lines if "validation_loss" in line] == list(range(4, 41, 4))
    assert lines[-1]["tokens"] == result.tokens == 40 * 128
    assert 0 < lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"]
    assert len(lines[-1]["imbalance"]) == 2  # a sparse layer and MTP's
    assert sum(lines[-1]["loads"][0]) == 128 * 4
    assert result.validation_loss == lines[-1]["validation_loss"]
    assert (tmp_path / "recipe.toml").is_file()
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert Plan.load(tmp_path / "plan.toml").execution.threads == 1
    assert json.loads((tmp_path / "run.json").read_text())["machine"]["cpu"]
    assert "Done:" in (tmp_path / "log.txt").read_text()
    model, tokenizer = grainline.load(result.model)
    ids_BS = torch.tensor([tokenizer.encode("the", bos=True)])
    assert model(ids_BS).shape[-1] == model.config.vocab_size == tokenizer.vocab_size
    assert "# tiny" in (result.model / "README.md").read_text()


@pytest.mark.parametrize(("steps", "every", "kept"), [(12, 5, [5, 10]), (210, 3, list(range(3, 211, 3))), (8, 1, None)])
def test_loads_are_in_lines_that_are_written(steps: int, every: int, kept: list[int] | None) -> None:
    found = [step for step in range(1, steps + 1) if keeps_loads(step, steps, every)]
    assert found == (kept or list(range(1, steps + 1)))
    assert all(step % every == 0 for step in found)


@given(steps=st.integers(1, 100_000), every=st.integers(1, 300))
def test_loads_are_kept_about_a_hundred_times(steps: int, every: int) -> None:
    found = sum(keeps_loads(step, steps, every) for step in range(every, steps + 1, every))
    assert min(100, steps // every) // 2 <= found <= 200


def test_fewer_lines_have_loads_all_the_same(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    run(tiny(logging={"every": 5}), tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [4, 5, 8, 10, 12]
    assert [line["step"] for line in lines if "loads" in line] == [5, 10]


def test_one_batch_over_and_over_is_learned_by_heart(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    documents = ["The quick brown fox jumps over the lazy dog. " * 3, "Pack my box with five dozen liquor jugs. " * 4]
    text.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    recipe = tiny(
        data={"text": [str(text)], "max_bytes": None, "sequence_length": 8, "validation_fraction": 0.5},
        training={"steps": 60, "batch_tokens": 32},
        learning_rate={"peak": 0.02},
    )
    train(recipe, Plan.parse({"execution": {"threads": 1}}), out=tmp_path / "run", quiet=True)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"] < 0.5


def test_the_same_seed_gives_the_same_run_and_another_another(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    recipe = tiny(training={"steps": 4})
    run(recipe, tmp_path / "a")
    run(recipe, tmp_path / "b")
    run(tiny(training={"steps": 4}, seed=1), tmp_path / "c")
    assert _curve(tmp_path / "a") == _curve(tmp_path / "b") != _curve(tmp_path / "c")
    assert _same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("optimizer", "compute", "number"),
    [("muon", "float32", signal.SIGINT), ("muon", "bfloat16", signal.SIGTERM), ("adamw", "float32", signal.SIGTERM)],
)
def test_a_run_that_was_interrupted_goes_on_bit_equal(
    tiny: MakeRecipe,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    compute: str,
    number: signal.Signals,
) -> None:
    recipe = tiny(optimizer={"kind": optimizer}, precision={"compute": compute})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(recipe, whole)
    with monkeypatch.context() as patch:
        _stop_at(patch, 6, number)
        with pytest.raises(TrainingInterrupted):
            run(recipe, broken)
    assert read_metrics(broken / "metrics.jsonl")[-1]["step"] <= 7  # the step under way is finished
    assert "The same command goes on from there" in (broken / "log.txt").read_text()
    result = run(recipe, broken)
    assert result.resumed_from in (6, 7)
    assert _curve(broken) == _curve(whole)
    assert _same_weights(broken, whole)


def test_a_run_that_was_killed_goes_on_bit_equal(
    tiny: MakeRecipe, run: Run, one_thread: Plan, data: Path, tmp_path: Path
) -> None:
    recipe = tiny(training={"steps": 30}, learning_rate={"schedule": "wsm", "merge_checkpoints": 4})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(recipe, whole)
    recipe.save(tmp_path / "recipe.toml")
    one_thread.save(tmp_path / "plan.toml")
    command = [sys.executable, "-m", "grainline", "train", "recipe.toml", "--plan", "plan.toml"]
    process = subprocess.Popen(
        [*command, "--out", "broken", "--data", str(data)], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not CheckpointFolder(broken / "checkpoints").steps() and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    killed_at = len(read_metrics(broken / "metrics.jsonl"))
    result = run(recipe, broken)
    assert result.resumed_from is not None
    assert 5 <= result.resumed_from <= killed_at
    assert _curve(broken) == _curve(whole)
    assert _same_weights(broken, whole)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tiny: MakeRecipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(tiny(), whole)
    with monkeypatch.context() as patch:
        _stop_at(patch, 10)
        with pytest.raises(TrainingInterrupted):
            run(tiny(), broken)
    folder = CheckpointFolder(broken / "checkpoints")
    shard = folder.at(folder.steps()[-1]) / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    result = run(tiny(), broken)
    assert result.resumed_from == 10
    assert "Checkpoint not used:" in (broken / "log.txt").read_text()
    assert _curve(broken) == _curve(whole)
    assert _same_weights(broken, whole)


def test_a_full_disk_stops_the_run_with_its_last_checkpoint(
    tiny: MakeRecipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(tiny(), whole)
    real = storage_module.write_tensors

    def full(path: Path, tensors: dict[str, torch.Tensor]) -> object:
        if "step-00000010" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "write_tensors", full)
        with pytest.raises(CheckpointError, match=r"disk is full\. The checkpoint of step 5 is whole"):
            run(tiny(), broken)
    assert CheckpointFolder(broken / "checkpoints").steps() == [5]
    assert run(tiny(), broken).resumed_from == 5
    assert _curve(broken) == _curve(whole)


def test_a_finished_run_is_returned_as_it_is(
    tiny: MakeRecipe, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tiny(), tmp_path)
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    assert run(tiny(), tmp_path) == first
    capsys.readouterr()
    assert train(tiny(), out=tmp_path) == first
    assert f"The model is in {first.model}. To start anew: --no-resume." in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert run(tiny(), moved).model == moved / "model"
    tmp_path = moved
    again = run(tiny(training={"steps": 3}), tmp_path, resume=False)
    assert again.steps == 3
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3


def test_micro_batches_add_up(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    losses = {}
    for micro in (1, 3, 4):
        plan = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": micro}})
        loss = {"z_loss": 1e-3, "balance_loss": 1e-2}
        run(tiny(loss=loss), tmp_path / str(micro), plan)
        losses[micro] = [line["loss"] for line in read_metrics(tmp_path / str(micro) / "metrics.jsonl")]
    assert losses[1] == pytest.approx(losses[4], rel=1e-5)
    assert losses[3] == pytest.approx(losses[4], rel=1e-5)


def test_recomputing_changes_nothing(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    plan = Plan.parse({"execution": {"threads": 1, "recompute": "block"}})
    run(tiny(), tmp_path / "a", plan)
    run(tiny(), tmp_path / "b")
    assert _curve(tmp_path / "a") == _curve(tmp_path / "b")


def test_a_plan_that_asks_for_it_gets_compiled_blocks(
    tiny: MakeRecipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []  # noted only: tracing three blocks takes a minute
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    recipe = tiny(training={"steps": 3})
    run(recipe, tmp_path / "a", Plan.parse({"execution": {"threads": 1, "compile": "on"}}))
    assert [type(module) for module in compiled] == [Block, Block, MultiTokenPrediction]
    run(recipe, tmp_path / "b", Plan.parse({"execution": {"threads": 1, "compile": "auto"}}))
    assert len(compiled) == 3  # not on a CPU


def test_wsm_merges_the_window_and_keeps_the_last(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    recipe = tiny(learning_rate={"schedule": "wsm", "decay_fraction": 0.5, "merge_checkpoints": 3})
    result = run(recipe, tmp_path)
    window = CheckpointFolder(tmp_path / "window")
    assert window.steps() == [6, 9, 12]
    sources = [CheckpointSource(window.at(step), "model.") for step in window.steps()]
    merged, _ = grainline.load(result.model)
    for name, tensor in merged.state_dict().items():
        mean = sum(s.read(name).double() for s in sources) / 3
        torch.testing.assert_close(tensor.double(), mean, atol=1e-7, rtol=1e-6)
    assert result.last_model is not None
    last, _ = grainline.load(result.last_model)
    assert torch.equal(last.head.weight, sources[-1].read("head.weight"))  # type: ignore[union-attr]
    assert result.last_validation_loss == read_metrics(tmp_path / "metrics.jsonl")[-1]["validation_loss"]
    assert result.validation_loss != result.last_validation_loss


@pytest.mark.parametrize("steps", [1, 3])
def test_wsm_may_merge_the_whole_run(tiny: MakeRecipe, run: Run, tmp_path: Path, steps: int) -> None:
    wsm = {"schedule": "wsm", "decay_fraction": 1.0, "warmup_steps": 0}
    run(tiny(learning_rate=wsm, training={"steps": steps}), tmp_path)
    assert CheckpointFolder(tmp_path / "window").steps() == list(range(1, steps + 1))


def test_the_best_weights_are_kept_where_the_last_are_worse(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    recipe = tiny(learning_rate={"schedule": "constant", "peak": 0.3}, training={"steps": 16})
    result = run(recipe, tmp_path)
    losses = {
        x["step"]: x["validation_loss"] for x in read_metrics(tmp_path / "metrics.jsonl") if "validation_loss" in x
    }
    assert result.best_step == min(losses, key=lambda step: losses[step])
    assert result.best_validation_loss == min(losses.values())
    assert (result.best_model is None) == (result.best_step == 16)
    assert CheckpointFolder(tmp_path / "best").steps() == [result.best_step]


def test_a_pretrained_model_is_trained_on(tiny: MakeRecipe, run: Run, data: Path, tmp_path: Path) -> None:
    first = run(tiny(training={"steps": 30}), tmp_path / "first")
    more = tiny(model={"depth": None, "pretrained": str(first.model)})
    train(more, Plan.parse({"execution": {"threads": 1}}), out=tmp_path / "more", data=tmp_path / "its", quiet=True)
    began, ended = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("more", "first"))
    assert began[0]["loss"] < ended[0]["loss"] - 0.5
    assert not (tmp_path / "its" / "tokenizer").exists()  # its own is used


# --- bad input --------------------------------------------------------------------------------------------------------


def test_too_little_text_for_a_batch(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(GrainlineError, match=r"a batch of 4096 × 32 tokens needs .* lower data\.sequence_length or"):
        run(tiny(training={"batch_tokens": 32 * 4096}), tmp_path)


def test_another_recipe_in_the_same_folder_is_refused_by_its_keys(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    run(tiny(), tmp_path)
    with pytest.raises(GrainlineError, match=r"learning_rate\.peak: 0\.01 -> 0\.02; seed: 0 -> 3"):
        run(tiny(learning_rate={"peak": 0.02}, seed=3), tmp_path)
    run(tiny(checkpoint={"keep": 1}, logging={"every": 2}, name="other"), tmp_path)


def test_text_or_model_changed_under_a_run_is_refused(
    tiny: MakeRecipe, one_thread: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, sizes = tmp_path / "text.txt", tmp_path / "model.toml"
    paragraphs = [f"Paragraph {i} says that {i} times {i} is {i * i}.\n\n" for i in range(300)]
    text.write_text("".join(paragraphs))
    config = config_for_depth(2, 300, 32)
    config.save(sizes)
    data = {"text": [str(text)], "max_bytes": None}
    recipe = tiny(data=data, model={"depth": None, "config_file": str(sizes)})

    def go() -> None:
        train(recipe, one_thread, out=tmp_path / "run", quiet=True)

    with monkeypatch.context() as patch:
        _stop_at(patch, 6)
        with pytest.raises(TrainingInterrupted):
            go()
    config.model_copy(update={"ffn_hidden": 64}).save(sizes)
    with pytest.raises(GrainlineError, match=r"another model\. What differs: ffn_hidden: \d+ -> 64"):
        go()
    config.save(sizes)
    text.write_text("".join(paragraphs[:250]))
    with pytest.raises(GrainlineError, match=r"other text: a file of data\.text or the tokenizer has changed"):
        go()


def test_a_loss_that_is_no_number_stops_the_run_with_its_batch(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"Stopped at step \d+: the (loss|gradient norm) is (nan|inf)"):
        run(tiny(learning_rate={"peak": 1e30}, optimizer={"kind": "adamw"}), tmp_path)
    [facts] = (tmp_path / "guard").glob("*.json")
    found = json.loads(facts.read_text())
    ids_BS1 = load_file(facts.with_suffix(".safetensors"))["ids_BS1"]
    assert ids_BS1.shape == (4, 33)
    assert found["first_sequence"] == (found["step"] - 1) * 4
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == found["step"] - 1


def test_a_vocabulary_that_does_not_fit(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    config = grainline.load(run(tiny(training={"steps": 3}), tmp_path / "first").model)[0].config
    small = config.model_copy(update={"vocab_size": 280})
    with pytest.raises(GrainlineError, match=r"tokenizer has 300 tokens, the model's vocab_size is 280"):
        run(tiny(model={"depth": None, "config": small.tables()}), tmp_path / "second")
    short = config.model_copy(update={"max_positions": 16})
    with pytest.raises(GrainlineError, match=r"sequence_length is 32, but the model's max_positions is 16"):
        run(tiny(model={"depth": None, "config": short.tables()}), tmp_path / "second")


def test_a_damaged_tokenizer_of_a_run_is_trained_again(
    tiny: MakeRecipe, one_thread: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_at(monkeypatch, 5)
    with pytest.raises(TrainingInterrupted):
        train(tiny(), one_thread, out=tmp_path, quiet=True)
    monkeypatch.undo()
    path = tmp_path / "data" / "tokenizer" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    assert train(tiny(), out=tmp_path, quiet=True).resumed_from == 6


def test_memory_that_may_not_suffice_is_told(
    tiny: MakeRecipe, one_thread: Plan, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grainline.train.run.free_memory_bytes", lambda machine, ranks: 1000)
    train(tiny(), one_thread, out=tmp_path, data=data)
    log = (tmp_path / "log.txt").read_text()
    assert "Memory may not suffice: about 0.0 GB are needed, 0.0 GB are free." in log


def test_a_folder_that_is_read_is_not_written_to(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(GrainlineError, match=r"is searched for text, and .* lies in it"):
        run(tiny(data={"text": [str(tmp_path)]}), tmp_path / "run")
    with pytest.raises(GrainlineError, match=r"is searched for text, and .* lies in it"):
        dry_run(tiny(data={"text": [str(tmp_path)]}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "log.txt").exists()


def test_a_file_where_the_folder_should_be(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(GrainlineError, match=r"file/run: no folder can be made there \(Not a directory\)"):
        run(tiny(), tmp_path / "file" / "run")


def test_two_runs_in_one_folder(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(GrainlineError, match="another run is at work in this folder"):
            run(tiny(), tmp_path)


def test_tensorboard_goes_on_where_the_run_does(
    tiny: MakeRecipe, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of steps that are made again are hidden, and --no-resume deletes them all."""
    opened: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            opened.append((log_dir, purge_step))
            Path(log_dir).mkdir(exist_ok=True)
            (Path(log_dir) / f"events.{len(opened)}").write_text("")

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            assert global_step >= opened[-1][1]

        def close(self) -> None: ...

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    recipe, folder = tiny(logging={"tensorboard": True}), tmp_path / "tensorboard"
    with monkeypatch.context() as patch:
        _stop_at(patch, 6)
        with pytest.raises(TrainingInterrupted):
            run(recipe, tmp_path)
    resumed_from = run(recipe, tmp_path).resumed_from
    assert resumed_from in (6, 7)
    assert opened == [(str(folder), 1), (str(folder), resumed_from + 1)]
    run(recipe, tmp_path, resume=False)
    assert [path.name for path in folder.iterdir()] == ["events.3"]


def test_tensorboard_is_asked_for_by_name(tiny: MakeRecipe, run: Run, tmp_path: Path) -> None:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(GrainlineError, match=r"pip install 'grainline\[tensorboard\]'"):
            run(tiny(logging={"tensorboard": True}), tmp_path)
    else:
        run(tiny(logging={"tensorboard": True}), tmp_path)
        assert list((tmp_path / "tensorboard").iterdir())
