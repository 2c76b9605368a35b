"""`grainline simulate` and `grainline.simulate`: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import grainline
from grainline.cli import main
from grainline.documents import Cluster, GrainlineError, ModelConfig, Plan, Recipe
from grainline.models.dial import config_for_depth
from grainline.models.formats import config_to_hf
from grainline.train.simulate import read_cluster, simulated_step

CONFIG = config_for_depth(8, 1000, 8192)
CLUSTER = "2xA100-80 + 2xA10G@25GbE"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tables = {
        "model": {"config": CONFIG.tables()},
        "data": {"sequence_length": 256, "vocab_size": 1000},
        "training": {"steps": 10, "batch_tokens": 256 * 32},
        "learning_rate": {"peak": 1e-3},
    }
    Recipe.parse(tables).save(tmp_path / "recipe.toml")
    return tmp_path / "recipe.toml"


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert main(["simulate", *map(str, arguments), "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_step_in_words(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(recipe), "--cluster", CLUSTER]) == 0
    said = capsys.readouterr().out
    assert "1f1b over 4 ranks: 16 micro-batches of 2 sequences × 256 tokens, in bfloat16" in said
    for words in (
        "tokens/s",
        "bubble",
        "update",
        "A10G in b",
        "80 GB",
        "What binds",
        "312 TFLOP/s bfloat16 (data sheet)",
    ):
        assert words in said
    assert "25GbE" in said


def test_the_figures_are_those_of_the_timeline(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, recipe, "--cluster", CLUSTER, "--schedule", "zb-h1")
    timeline = grainline.simulate(recipe, CLUSTER, schedule="zb-h1")
    assert timeline.name == "zb-h1"
    assert found["seconds"] == timeline.makespan + found["update_seconds"]  # type: ignore[operator]
    assert found["tokens_per_second"] == pytest.approx(256 * 32 / found["seconds"])  # type: ignore[operator]
    assert found["bubble_fraction"] == timeline.bubble_fraction
    ranks: list[dict[str, object]] = found["ranks"]  # type: ignore[assignment]
    assert [rank["peak_bytes"] for rank in ranks] == [series.peak_bytes for series in timeline.memory[:4]]
    assert [rank["device"] for rank in ranks] == ["A100-80"] * 2 + ["A10G"] * 2
    assert sum(len(rank["cells"]) for rank in ranks) == 12  # type: ignore[arg-type]
    assert found["link_bytes"] == {name: moved for name, moved in timeline.link_bytes.items() if moved}


def test_schedules_are_compared_the_best_first(
    recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "steps.svg"
    arguments = [str(recipe), "--cluster", "4xA100-80", "--compare", "gpipe,zb-h1,1f1b", "--draw", str(picture)]
    assert main(["simulate", *arguments]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:4]] == ["zb-h1", "1f1b", "gpipe"]
    assert "× 1.000" in rows[1]
    assert picture.read_text().startswith("<svg")
    assert main(["simulate", *arguments[:-2], "--json"]) == 0
    seconds = [step["seconds"] for step in json.loads(capsys.readouterr().out)]
    assert seconds == sorted(seconds)


def test_a_schedule_that_refuses_is_told_beside_the_others(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--cluster", "4xA100-80", "--compare", "all", "--microbatches", "6"]
    assert main(["simulate", str(recipe), *arguments]) == 0
    said = capsys.readouterr()
    assert "1f1b" in said.out
    assert "interleaved: schedule 'interleaved' interleaves groups of 4 micro-batches" in said.err
    assert "dualpipe-v: " in said.err


def test_picture_trace_and_plan_are_written(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, trace, plan = (tmp_path / name for name in ("step.svg", "step.json", "plan.toml"))
    written = ["--draw", str(picture), "--trace", str(trace), "--save-plan", str(plan)]
    assert main(["simulate", str(recipe), "--cluster", CLUSTER, *written]) == 0
    capsys.readouterr()
    assert picture.read_text().startswith("<svg")
    assert json.loads(trace.read_text())["traceEvents"]
    decided = Plan.load(plan).pipeline
    assert decided is not None
    assert (decided.ranks, decided.microbatches, len(decided.cut)) == (4, 16, 4)
    first = _json(capsys, recipe, "--cluster", CLUSTER)
    assert _json(capsys, recipe, "--cluster", CLUSTER, "--plan", plan) == first
    assert (
        _json(capsys, recipe, "--cluster", CLUSTER, "--plan", plan, "--cut", "3,3,3,3")["seconds"] != first["seconds"]
    )


def test_noise_is_seeded_and_a_slow_rank_is_slow(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, *noisy = (
        _json(capsys, recipe, "--cluster", CLUSTER, *options)["seconds"]
        for options in ([], ["--jitter", 0.1], ["--jitter", 0.1], ["--jitter", 0.1, "--seed", 1])
    )
    assert plain != noisy[0] == noisy[1] != noisy[2]
    slow = _json(capsys, recipe, "--cluster", CLUSTER, "--slow", "1=2", "--slow", "0=1.5")
    assert slow["seconds"] > 1.3 * plain  # type: ignore[operator]
    assert grainline.simulate(recipe, CLUSTER, slow={1: 2.0, 0: 1.5}).makespan == pytest.approx(
        slow["seconds"] - slow["update_seconds"]  # type: ignore[operator]
    )


def test_a_model_may_stand_for_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_hf(CONFIG)))
    CONFIG.save(tmp_path / "own.toml")
    options = ["--cluster", "4xA100-80", "--recompute", "always"]
    found = [_json(capsys, model, *options) for model in (folder, folder / "config.json", tmp_path / "own.toml")]
    assert found[0] == found[1] == found[2]
    assert found[0]["microbatch_sequences"] == 1
    assert grainline.simulate(CONFIG, "4xA100-80", recompute="always").makespan == pytest.approx(
        found[0]["seconds"] - found[0]["update_seconds"]  # type: ignore[operator]
    )
    longer = _json(
        capsys, folder, *options, "--set", "data.sequence_length=8192", "--set", "training.batch_tokens=65536"
    )
    assert longer["pipeline"]["microbatches"] == 8  # type: ignore[index]


def test_without_a_cluster_it_is_this_machine(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = {
        "name": "CPU",
        "kind": "cpu",
        "flops_per_second": {"float32": 1e11},
        "memory": [{"name": "RAM", "capacity_bytes": 64 * 10**9, "bytes_per_second": 2e10}],
        "source": "measured",
    }
    here = Cluster.parse({"device_types": [cpu], "nodes": [{"name": "here", "devices": {"CPU": 1}, "cores": 3}]})

    class Machine:
        def to_cluster(self) -> Cluster:
            return here

    monkeypatch.setattr("grainline.hardware.look", Machine)
    assert read_cluster(None) is here
    step = simulated_step(Plan(), {}, recipe, here)
    assert len(step.resolved.seats) == 3
    assert step.resolved.batch.compute == "float32"


def test_ranks_default_to_no_more_than_layers() -> None:
    small: ModelConfig = config_for_depth(3, 1000, 256)
    assert grainline.simulate(small, "16xA100-80").ranks == 3


def test_a_timeline_is_told_alone_and_held_against(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "timeline.json"
    grainline.simulate(recipe, CLUSTER, schedule="gpipe").save(kept)
    picture = tmp_path / "kept.svg"
    assert main(["simulate", "--timeline", str(kept), "--draw", str(picture)]) == 0
    assert capsys.readouterr().out.startswith("gpipe, simulated: ")
    assert picture.read_text().count("Timeline of") == 1
    assert main(["simulate", str(recipe), "--cluster", CLUSTER, "--schedule", "gpipe", "--timeline", str(kept)]) == 0
    assert "simulated: +0.0%\n" in capsys.readouterr().out
    found = _json(capsys, recipe, "--cluster", CLUSTER, "--timeline", kept)
    assert found["measured"]["schedule"] == "gpipe"  # type: ignore[index]
    assert main(["simulate"]) == 2
    assert "Name a recipe or a model to simulate, or a step that was run" in capsys.readouterr().err
    assert main(["simulate", "--timeline", str(recipe)]) == 2
    assert "recipe.toml: no timeline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ranks", "9", "--cluster", "9xA100-80"], "ranks is 9, and the model has 8 layers"),
        (["--microbatches", "0"], "pipeline.microbatches: must be greater than 0, not 0"),
        (["--schedule", "1f1"], "there is no pipeline schedule '1f1'. Did you mean '1f1b'?"),
        (["--compare", "gpipe,1f1"], "--compare: there is no pipeline schedule '1f1'. Did you mean '1f1b'?"),
        (["--compare", ","], "--compare: name schedules with commas between"),
        (["--compare", "all", "--schedule", "1f1b"], "--compare: leave out --schedule"),
        (["--schedule", "interleaved", "--microbatches", "6"], "take 4 or 8 micro-batches"),
        (["--schedule", "1f1b", "--chunks", "2"], "schedule '1f1b' has 1 stage per rank, not 2"),
        (["--cut", "3,3,3"], "pipeline.cut can't be: a cut into 3 stages, where the schedule has 4"),
        (["--cut", "3,3,3,4"], "pipeline.cut can't be: a cut of 13 cells [3, 3, 3, 4], where the model has 12"),
        (["--cut", "even"], "pipeline.cut: must be 'auto' or 'equal'"),
        (["--slow", "2"], "--slow 2: write RANK=TIMES"),
        (["--slow", "4=2"], "there is no rank 4 to be slow"),
        (["--jitter=-1"], "a jitter of -1.0: must be 0 or more"),
        (["--cluster", "4xA1000"], "the catalogue has no device 'A1000'"),
        (["--cluster", "none.toml"], "none.toml: no such file"),
        (["--set", "training.batch_tokens=1024"], "A batch of 4 sequences can't fill 16 micro-batches"),
        (
            ["--microbatches", "16", "--set", "training.batch_tokens=1024"],
            "Raise training.batch_tokens to 4096 or more",
        ),
    ],
)
def test_what_can_not_be_is_refused_in_words(
    recipe: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = [] if "--cluster" in options else ["--cluster", CLUSTER]
    if options[0] == "--set":
        options = ["--microbatches", "16", *options]
    assert main(["simulate", str(recipe), *cluster, *options]) == 2
    assert said in capsys.readouterr().err


def test_memory_that_does_not_fit_says_which_bytes(recipe: Path) -> None:
    with pytest.raises(
        GrainlineError, match=r"rank \d \(L4 in a\) with .* needs [\d,.]+e?\+?\d* GB, and has 24 GB: parameters"
    ):
        grainline.simulate(config_for_depth(48, 150_000, 8192), "2xL4")
