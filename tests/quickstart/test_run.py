"""The whole quickstart on a little text, its resumption, and what it refuses."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import grainline as gl
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError
from grainline.models.build import build
from grainline.models.dial import dense_twin
from grainline.models.loading import load
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
    out, done, said = tmp_path / "run", [], []

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
            quickstart_run.quickstart(options, out, say=said.append)
    report = quickstart_run.quickstart(options, out, say=said.append)
    assert all(done.count(stage.name) <= 2 for stage in quickstart_run.STAGES)

    announced = list(dict.fromkeys(line for line in said if line[:1].isdigit()))
    assert announced == [f"{i}/7 {stage.name}" for i, stage in enumerate(quickstart_run.STAGES, 1)]
    assert any("extrapolated at" in line for line in said)

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


def test_evaluation_and_samples_are_counted_and_take_the_gpu_if_there_is_one(options, tmp_path, monkeypatch):
    run = stages.Run(options, QuickstartFolder(tmp_path / "run"), {}, lambda _: None)
    for stage in (stages.see_machine, stages.make_tokenizer, stages.divide_time):
        stage(run)
    for config, folder in ((run.sparse, run.folder), (dense_twin(run.sparse), QuickstartFolder(run.folder.dense))):
        build(config).save(folder.model, Tokenizer.load(run.folder.tokenizer))
    devices, counts = [], {}

    def load_on(path, **where):
        devices.append(where.get("device"))
        return load(path, **where)

    @contextmanager
    def counted(label, total, quiet):
        counts[label] = 0

        def more(count):
            counts[label] += count

        yield more
        assert counts[label] == total

    monkeypatch.setattr(stages, "load", load_on)
    monkeypatch.setattr(stages, "counted", counted)
    stages.evaluate(run)
    stages.write_samples(run)
    assert devices == ["auto"] * 3
    assert [name.split()[-1] for name in counts] == ["documents", "documents", "samples"]
    assert all(counts.values())
    samples = json.loads(run.folder.samples.read_text())
    assert [sample["part"] for sample in samples] == ["fables", "hymns"]
    assert [sample["seed"] for sample in samples] == [3, 4]


def test_too_little_time_still_leaves_text_to_hold_out(options, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "measure_speed", lambda *_: Speed(1e6, 1e6, 4096, "float32"))
    run = stages.Run(replace(options, minutes=0.1), QuickstartFolder(tmp_path / "run"), {}, lambda _: None)
    for stage in (stages.see_machine, stages.make_tokenizer, stages.divide_time):
        stage(run)
    assert {row["part"] for row in run.facts["corpus"] if row["split"] == "valid"} == {"fables", "hymns"}


def test_a_wrong_name_can_be_put_right(options, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart_run, "STAGES", quickstart_run.STAGES[:2])
    monkeypatch.setattr(quickstart_run, "model_card", lambda out: "")
    monkeypatch.setattr(quickstart_run, "render", lambda out: out)
    out = tmp_path / "run"
    with pytest.raises(GrainlineError, match="no such file or folder"):
        quickstart_run.quickstart(replace(options, text=(f"{options.text[0]}s",)), out)
    (out / "model").mkdir()  # where the card goes
    assert quickstart_run.quickstart(options, out) == out
    with pytest.raises(GrainlineError, match=r"other options \(seed: 3 → 4\)"):
        quickstart_run.quickstart(replace(options, seed=4), out)


def test_too_little_text_can_be_added_to(options, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "measure_speed", lambda *_: Speed(0.03, 0.03, 4096, "float32"))
    text, whole = tmp_path / "text.txt", (Path(options.text[0]) / "hymns.txt").read_text()
    text.write_text(whole[:3000])
    said = []
    run = stages.Run(replace(options, text=(str(text),)), QuickstartFolder(tmp_path / "run"), {}, said.append)
    stages.see_machine(run)
    stages.make_tokenizer(run)
    with pytest.raises(GrainlineError, match=r"text.txt: too little text: .* tokens to learn from.*Give more text"):
        stages.divide_time(run)
    text.write_text(whole)
    stages.divide_time(run)
    assert sum(line.startswith("Tokenizer") for line in said) == 2
    assert f"read {run.facts['budget']['epochs']:,.0f} times and learnt by heart" in said[-1]


def test_a_folder_of_something_else_is_left_alone(options, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(GrainlineError, match="isn't a quickstart"):
        quickstart_run.quickstart(options, tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
