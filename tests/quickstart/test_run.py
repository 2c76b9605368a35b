"""The whole quickstart on a little text, its resumption, and what it refuses."""

import json
import random
from pathlib import Path

import pytest

import grainline as gl
from grainline.documents import GrainlineError
from grainline.quickstart import run as quickstart_run
from grainline.quickstart import stages
from grainline.quickstart.budget import Speed
from grainline.quickstart.options import Options, QuickstartFolder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Two files of made-up sentences: enough for a batch, quick to learn."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    words = ["sun", "moon", "river", "stone", "walks", "sings", "slowly", "under", "the", "old", "bridge", "and"]
    for name in ("fables", "hymns"):
        lines = [" ".join(draw.choices(words, k=12)).capitalize() + "." for _ in range(4000)]
        pages = ["\n".join(lines[i : i + 50]) for i in range(0, 4000, 50)]
        (folder / f"{name}.txt").write_text("\n\n".join(pages))
    return Options(minutes=1, depth=2, text=(str(folder),), seed=3)


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch):
    """Steps that seem to take so long that the budget comes to its fewest, and are quick in truth."""
    monkeypatch.setattr(stages, "measure_speed", lambda *_: Speed(5.0, 5.0, 4096, "float32"))
    monkeypatch.setattr(stages, "SAMPLE_TOKENS", 8)


def test_stopped_anywhere_it_goes_on_and_ends_with_everything(options, tmp_path, monkeypatch):
    out, done = tmp_path / "run", []

    def stopping(stage):
        def do(run):
            done.append(stage.name)
            if done.count(stage.name) == 1 and stage.name != "look at the machine":
                raise KeyboardInterrupt
            stage.do(run)

        return stage._replace(do=do)

    monkeypatch.setattr(quickstart_run, "STAGES", tuple(map(stopping, quickstart_run.STAGES)))
    for _ in range(len(quickstart_run.STAGES) - 1):
        with pytest.raises(KeyboardInterrupt):
            quickstart_run.quickstart(options, out, say=lambda _: None)
    report = quickstart_run.quickstart(options, out, say=lambda _: None)
    assert all(done.count(stage.name) <= 2 for stage in quickstart_run.STAGES)

    folder = QuickstartFolder(out)
    facts, found = json.loads(folder.facts.read_text()), json.loads(folder.evaluation.read_text())
    assert [t["stage"] for t in facts["timings"]] == [s.name for s in quickstart_run.STAGES]
    assert set(found["bits_per_byte"]) == {"sparse", "dense", "n-gram", "xz"}
    for scores in found["bits_per_byte"].values():
        assert 0.3 < scores["total"] < 8
    trained = facts["budget"]["steps"] * facts["budget"]["batch_tokens"]
    assert found["training_bytes"] <= facts["budget"]["training_bytes"]
    assert trained <= facts["budget"]["tokens"]
    assert "<html" in report.read_text()
    model, tokenizer = gl.load(folder.model)
    assert model.config.layers == 2
    assert model.config.moe
    assert tokenizer.vocab_size == model.config.vocab_size
    assert json.loads(folder.samples.read_text())
    assert (folder.model / "README.md").read_text().startswith("---\n")

    before = report.stat().st_mtime_ns
    again = quickstart_run.quickstart(options, out, say=lambda _: None)
    assert again.stat().st_mtime_ns >= before
    assert done.count("evaluate") == 2  # nothing was done again

    with pytest.raises(GrainlineError, match="minutes: 1 → 2"):
        quickstart_run.quickstart(Options(2, 2, options.text, 3), out)


def test_training_text_is_what_the_model_read(options, tmp_path):
    out = tmp_path / "run"
    run = stages.Run(options, QuickstartFolder(out), {}, lambda _: None)
    for stage in (stages.see_machine, stages.make_tokenizer, stages.divide_time):
        stage(run)
    text = stages.training_text(run)
    whole = "".join(path.read_text() for path in sorted(Path(options.text[0]).glob("*.txt")))
    read = run.budget.tokens // run.budget.sequence_length
    assert read > 0
    assert 0 < len(text) <= run.facts["budget"]["training_bytes"]
    assert text[500:520].decode() in whole


def test_a_folder_of_something_else_is_left_alone(options, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(GrainlineError, match="isn't a quickstart"):
        quickstart_run.quickstart(options, tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
