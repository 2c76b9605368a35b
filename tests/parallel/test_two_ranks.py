"""Two processes over gloo learn what one does: all checks share one start of the two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grainline.documents import Plan, Recipe
from grainline.train import read_metrics, train
from grainline.train.checkpoint import CheckpointFolder, CheckpointSource
from grainline.train.checkpoint.folder import remove

pytestmark = pytest.mark.multiprocess

STEPS = 20
ALONE = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": 4}})


def _recipe(**training: int) -> Recipe:
    return Recipe.parse(
        {
            "model": {"depth": 2},
            "data": {"text": ["builtin"], "vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
            "training": {"steps": STEPS, "batch_tokens": 256} | training,
            "learning_rate": {"peak": 0.01, "warmup_steps": 2},
            "loss": {"z_loss": 1e-3, "balance_loss": 1e-2, "mtp_every": 2},
            "precision": {"compute": "float32"},
            "validation": {"every": 10, "max_sequences": 7},
            "checkpoint": {"every": 10},
        }
    )


def _back_to_step_10(run: Path) -> None:
    """As if the run had been killed after its first checkpoint."""
    remove(CheckpointFolder(run / "checkpoints").at(STEPS))
    (run / "result.json").unlink()
    shutil.rmtree(run / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, side by side."""
    folder = tmp_path_factory.mktemp("ranks")

    def alone(recipe: Recipe, name: str) -> None:
        train(recipe, ALONE, out=folder / name, data=folder / "data", quiet=True)

    recipe, uneven = _recipe(), _recipe(batch_tokens=160)
    recipe.save(folder / "recipe.toml")
    uneven.save(folder / "uneven.toml")
    _recipe(batch_tokens=1 << 20).save(folder / "too-large.toml")
    alone(recipe, "one")
    alone(uneven, "one-uneven")
    shutil.copytree(folder / "one", folder / "resumed-by-two")
    _back_to_step_10(folder / "resumed-by-two")

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = Path(__file__).parent / "two_ranks.py"
    ended = subprocess.run(
        [*torchrun, str(worker), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]

    shutil.copytree(folder / "fsdp", folder / "resumed-by-one")
    _back_to_step_10(folder / "resumed-by-one")
    alone(recipe, "resumed-by-one")
    return folder


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        ("dp", "one"),
        ("fsdp", "one"),
        ("dp-uneven", "one-uneven"),
        ("resumed-by-one", "one"),  # a checkpoint that two sharded ranks wrote, read by one process
        ("resumed-by-two", "one"),  # and the other way round
    ],
)
def test_the_curve_is_that_of_one_process(folder: Path, ours: str, reference: str) -> None:
    found, expected = (read_metrics(folder / name / "metrics.jsonl") for name in (ours, reference))
    assert len(found) == len(expected) == STEPS
    for key in ("loss", "mtp_loss", "grad_norm", "tokens"):
        assert [x[key] for x in found] == pytest.approx([x[key] for x in expected], rel=1e-5), key
    assert found[-1]["loads"] == expected[-1]["loads"]
    assert found[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], rel=1e-4)


def test_sharded_ranks_write_their_own_parts(folder: Path) -> None:
    checkpoint = CheckpointFolder(folder / "fsdp" / "checkpoints").at(STEPS)
    shards = sorted(checkpoint.glob("shard-*"))
    assert len(shards) == 2
    sizes = [shard.stat().st_size for shard in shards]
    assert max(sizes) < 1.2 * min(sizes)
    whole = CheckpointSource(checkpoint, "model.")
    one = CheckpointSource(CheckpointFolder(folder / "one" / "checkpoints").at(STEPS), "model.")
    assert sorted(whole.names()) == sorted(one.names())
    for name in one.names():
        assert whole.read(name).shape == one.read(name).shape
        assert (whole.read(name) - one.read(name)).abs().max() < 1e-2 * one.read(name).abs().max() + 1e-4, name


def test_what_is_wrong_is_raised_on_every_rank_and_told_by_the_first(folder: Path) -> None:
    for rank, kind in ((0, "GrainlineError"), (1, "AlreadyTold")):
        uneven, too_large = json.loads((folder / f"said-{rank}.json").read_text())
        assert "batches that 2 ranks share evenly" in uneven[1]
        assert "the train split has" in too_large[1]
        assert uneven[0] == too_large[0] == kind
