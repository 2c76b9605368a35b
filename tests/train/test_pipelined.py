"""Whole runs in a pipeline of two processes learn what one process does; all checks share one start of the two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

import grainline
from grainline._words import percent, span
from grainline.cli import main
from grainline.documents import Plan, Recipe
from grainline.schedule import Kind, Timeline
from grainline.train import read_metrics, train
from grainline.train.checkpoint import CheckpointFolder, CheckpointSource
from grainline.train.checkpoint.folder import remove

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

STEPS = 12
ALONE = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": 4}})
TABLES = {
    "model": {"depth": 2},
    "data": {"text": ["builtin"], "vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
    "training": {"steps": STEPS, "batch_tokens": 256},
    "learning_rate": {"peak": 0.01, "warmup_steps": 2},
    "loss": {"z_loss": 1e-3, "balance_loss": 1e-2, "mtp_every": 2},
    "precision": {"compute": "float32"},
    "validation": {"every": 6, "max_sequences": 7},
    "checkpoint": {"every": 6},
}


def _back_to_step_6(run: Path) -> None:
    """As if the run had been killed after its first checkpoint."""
    remove(CheckpointFolder(run / "checkpoints").at(STEPS))
    (run / "result.json").unlink()
    shutil.rmtree(run / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, and of two in a pipeline, side by side."""
    folder = tmp_path_factory.mktemp("pipelined")
    recipe = Recipe.parse(TABLES)
    wsm = Recipe.parse(TABLES | {"learning_rate": {"peak": 0.01, "schedule": "wsm", "merge_checkpoints": 3}})
    recipe.save(folder / "recipe.toml")
    wsm.save(folder / "wsm.toml")
    for name, which in (("alone", recipe), ("wsm-alone", wsm)):
        train(which, ALONE, out=folder / name, data=folder / "data", quiet=True)
    shutil.copytree(folder / "alone", folder / "resumed-by-pipeline")
    _back_to_step_6(folder / "resumed-by-pipeline")
    for name in ("resumed-by-another-cut", "resumed-by-vocab2"):
        shutil.copytree(folder / "resumed-by-pipeline", folder / name)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, str(Path(__file__).parent / "pipelined.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    for name, before in (("resumed-by-one", "zb-v"), ("resumed-by-one-from-vocab1", "vocab1")):
        shutil.copytree(folder / before, folder / name)
        _back_to_step_6(folder / name)
        train(recipe, ALONE, out=folder / name, data=folder / "data", quiet=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "1f1b",
        "zb-v",
        "recomputed",
        "vocab1",
        "vocab2",
        "resumed-by-pipeline",
        "resumed-by-another-cut",
        "resumed-by-vocab2",
        "resumed-by-one",
        "resumed-by-one-from-vocab1",
    ],
)
def test_the_curve_is_that_of_one_process(folder: Path, name: str) -> None:
    found, expected = (read_metrics(folder / each / "metrics.jsonl") for each in (name, "alone"))
    assert len(found) == len(expected) == STEPS
    for key in ("loss", "mtp_loss", "z_loss", "grad_norm", "tokens"):
        assert [x[key] for x in found] == pytest.approx([x[key] for x in expected], rel=1e-5), key
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["imbalance"] == pytest.approx(theirs["imbalance"], rel=1e-6)
        assert ours["loads"] == theirs["loads"]
    assert found[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["1f1b", "vocab2", "wsm"])
def test_the_model_at_the_end_is_whole(folder: Path, name: str) -> None:
    reference = "wsm-alone" if name == "wsm" else "alone"
    ours, theirs = (load_file(folder / each / "model" / "model.safetensors") for each in (name, reference))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert (ours[key] - theirs[key]).abs().max() < 1e-3 * theirs[key].abs().max() + 1e-6, key
    model, tokenizer = grainline.load(folder / name / "model")
    assert list(model.generate(tokenizer.encode("The"), max_new_tokens=2))


@pytest.mark.parametrize("name", ["1f1b", "vocab2"])
def test_ranks_write_their_own_parts_under_the_names_of_the_whole(folder: Path, name: str) -> None:
    checkpoint = CheckpointFolder(folder / name / "checkpoints").at(STEPS)
    assert len(list(checkpoint.glob("shard-*"))) == 2
    ours = CheckpointSource(checkpoint)
    theirs = CheckpointSource(CheckpointFolder(folder / "alone" / "checkpoints").at(STEPS))
    assert sorted(ours.names()) == sorted(theirs.names())
    assert all(ours.read(name).shape == theirs.read(name).shape for name in theirs.names())


def test_the_plan_that_was_run_is_kept(folder: Path) -> None:
    kept = Plan.load(folder / "1f1b" / "plan.toml")
    assert kept.pipeline is not None
    assert (kept.pipeline.microbatches, kept.pipeline.cut, kept.layout.data_parallel) == (8, (2, 4), 1)


def test_ranks_share_the_tables_of_the_vocabulary(folder: Path) -> None:
    files = sorted((CheckpointFolder(folder / "vocab2" / "checkpoints").at(STEPS)).glob("shard-*"))
    rows = [{k: t.shape[0] for k, t in load_file(f).items() if k.startswith("model.embedding.weight")} for f in files]
    assert [list(of.values()) for of in rows] == [[150], [150]]


def test_too_few_micro_batches_for_the_barriers_are_told(folder: Path) -> None:
    said = "3 micro-batches over 2 ranks are too few to hide the barriers of vocab1"
    assert said in (folder / "vocab1" / "log.txt").read_text()
    assert "too few" not in (folder / "vocab2" / "log.txt").read_text()


def test_what_cannot_be_is_refused_by_key(folder: Path) -> None:
    said = json.loads((folder / "said-0.json").read_text())
    assert (
        "8 sequences can't fill 9 micro-batches. Raise training.batch_tokens to 288" in said["too many micro-batches"]
    )
    assert "pipeline.cut can't be: a cut of 2 cells" in said["a cut of too few cells"]
    assert "there is no pipeline schedule '2f2b'" in said["no such schedule"]
    assert "Name one from 1 to 12 (training.steps)" in said["a timeline of no step"]
    assert json.loads((folder / "said-1.json").read_text()).keys() == said.keys()


def test_a_router_that_is_no_number_is_named_by_all_ranks(folder: Path) -> None:
    """Its layer is on the second rank; the first, whose own routers are well, says the same."""
    for rank in (0, 1):
        said = json.loads((folder / f"said-{rank}.json").read_text())
        for name in ("recomputed", "zb-v", "vocab2"):
            expected = "Stopped at step 3: the logits of the router of layer 1 are no numbers"
            assert expected in said[f"poisoned, {name}"], (rank, name)


def test_the_command_starts_its_own_ranks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(folder / "data"), "--set", "training.steps=2", "--set", "learning_rate.warmup_steps=0"]
    command = ["train", str(folder / "recipe.toml"), "--out", str(folder / "typed"), *options]
    asked = ["--pipeline", "2", "--schedule", "zb-h1", "--cut", "4,2", "--timeline", "2"]
    assert main([*command, *asked, "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["steps"] == 2
    assert 'schedule = "zb-h1"' in said.err
    assert "2 ranks on cpu, a pipeline of 2 (zb-h1, 8 micro-batches, cells 4, 2)" in said.err
    assert said.err.count("Done: ") == 1
    _check_timeline(folder / "typed", folder, said.err, capfd)
    assert main([*command, "--pipeline", "2", "--schedule", "2f2b", "--no-resume"]) == 2
    assert capfd.readouterr().err.count("there is no pipeline schedule '2f2b'") == 1


def _check_timeline(run: Path, folder: Path, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Of its second step: in every form, read back, and held against a simulation of the plan that was run."""
    found = Timeline.load(run / "timeline.json")
    assert (found.name, found.how, found.ranks) == ("zb-h1", "measured", 2)
    done = {(int(rank), action.kind.value) for rank, action in zip(found.rank, found.actions, strict=True)}
    assert {(rank, kind) for rank in (0, 1) for kind in "FIW"} < done
    assert Counter(action.kind for action in found.actions)[Kind.F] == 2 * 8
    assert (run / "timeline.svg").read_text().startswith("<svg")
    assert json.loads((run / "timeline.trace.json").read_text())["otherData"]["how"] == "measured"
    assert said.count("Step 2, measured: passes of") == 1
    assert f"bubble {percent(found.bubble_fraction)} of all ranks' time. What binds: " in said
    told, both = ["simulate", "--timeline", str(run / "timeline.json")], folder / "both.svg"
    assert main([*told, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["seconds"] == found.makespan
    held = [str(run / "recipe.toml"), "--plan", str(run / "plan.toml"), "--cluster", "2xL4", "--draw", str(both)]
    assert main([*told, *held]) == 0
    words = capfd.readouterr().out
    assert f"simulated, {span(found.makespan)} measured: " in words
    assert "zb-h1, measured: " in words
    assert both.read_text().count("zb-h1, simulated") == both.read_text().count("zb-h1, measured") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--timeline", "2"], "only the ranks of a pipeline have a timeline"),
        (["--cut", "4,2"], "--cut goes with --pipeline RANKS"),
        (["--pipeline", "2", "--cut", "4;2"], "--cut 4;2: auto, equal, or how many cells each stage has"),
        (["--pipeline", "0"], "pipeline.ranks"),
        (["--pipeline", "2", "--plan", "PLAN"], "has a [pipeline] already"),
    ],
)
def test_a_pipeline_that_is_not_asked_for_rightly(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Recipe.parse(TABLES).save(tmp_path / "recipe.toml")
    Plan.parse({"pipeline": {"ranks": 2}}).save(tmp_path / "plan.toml")
    options = [str(tmp_path / "plan.toml") if option == "PLAN" else option for option in options]
    assert main(["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err
