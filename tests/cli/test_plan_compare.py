"""`grainline plan compare` and `plan calibrate`, on a run's folder made of a simulated step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Plan
from grainline.hardware.shorthand import cluster_of
from grainline.train.simulate import simulated_step

RECIPE = """
[model]
depth = 4
[training]
steps = 5
batch_tokens = 16384
[data]
sequence_length = 256
[learning_rate]
peak = 0.001
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of two ranks leaves."""
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    step = simulated_step(Plan(), {"ranks": 2}, folder / "recipe.toml", cluster_of("2xA10G"))
    step.timeline.save(folder / "timeline.json")
    Plan(pipeline=step.resolved.pipeline).save(folder / "plan.toml")
    (folder / "run.json").write_text(json.dumps({"machine": {"cpu": "none", "accelerators": [{"name": "A10G"}]}}))
    return folder


def test_from_run_to_a_truer_cluster(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cluster that the step was simulated for needs no correction, but says that it is calibrated."""
    cluster, better = tmp_path / "cluster.toml", tmp_path / "better.toml"
    cluster_of("2xA10G").save(cluster)
    page = tmp_path / "page.html"
    assert (
        main(
            [
                "plan",
                "compare",
                str(run / "plan.toml"),
                str(run),
                "--cluster",
                str(cluster),
                "--json",
                "--html",
                str(page),
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == pytest.approx(0.0, abs=1e-9)
    assert page.read_text().count("<svg") == 1
    assert main(["plan", "calibrate", str(cluster), "--from", str(run), "--out", str(better), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["factors"] == {"A10G": pytest.approx(1.0)}
    assert told["error_after"] == pytest.approx(0.0, abs=1e-6)
    assert "calibrated" in better.read_text()


@pytest.mark.parametrize(
    ("missing", "words"),
    [("timeline.json", "kept no timeline"), ("recipe.toml", "is no run's folder"), ("plan.toml", "no such file")],
)
def test_what_a_run_must_have_is_told(run: Path, missing: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """File by file."""
    (run / missing).unlink()
    assert main(["plan", "compare", str(run / "plan.toml"), str(run), "--cluster", "2xA10G"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_another_machine_s_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the names of its devices."""
    cluster = tmp_path / "cluster.toml"
    cluster_of("2xH100").save(cluster)
    assert main(["plan", "calibrate", str(cluster), "--from", str(run)]) == 2
    assert "another machine" in capsys.readouterr().err
    assert main(["plan", "calibrate", str(cluster)]) == 2
    assert "Name the run" in capsys.readouterr().err
