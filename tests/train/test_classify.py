"""A classifier from labelled texts to scores: what it reads, learns, resumes, says, and refuses."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from grainline.cli import main
from grainline.documents import GrainlineError
from grainline.documents.classification import ClassificationRecipe
from grainline.train.checkpoint import CheckpointFolder
from grainline.train.checkpoint.folder import remove
from grainline.train.classify import Trained, classify
from grainline.train.classify.evaluate import evaluate, mutual_information
from grainline.train.classify.examples import passages, read_examples
from grainline.train.metrics import read_metrics

WORDS = {"fruit": ("apple", "pear", "plum", "fig"), "metal": ("iron", "zinc", "lead", "gold")}


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


def labelled(count: int = 240, seed: int = 0) -> list[dict[str, object]]:
    draw, rows = random.Random(seed), []
    for i in range(count):
        label = ("fruit", "metal")[i % 2]
        words = [draw.choice(WORDS[label]) if draw.random() < 0.5 else f"w{draw.randrange(30)}" for _ in range(8)]
        rows.append({"text": " ".join([*words, WORDS[label][i % 4], str(i)]), "label": label})
    return rows


def recipe(text: Path | str, **tables: Any) -> ClassificationRecipe:
    return ClassificationRecipe.parse(
        {
            "data": {"text": [str(text)], "vocab_size": 320, "max_tokens": 32} | tables.pop("data", {}),
            "encoder": {"depth": 2},
            "head": {"proj": 16, "hidden": 12},
            "training": {"epochs": 3, "batch": 16},
            "learning_rate": {"peak": 0.01, "warmup_steps": 2},
            "checkpoint": {"every": 10},
            **tables,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    classify(recipe(write(folder / "texts.jsonl", labelled())), out=folder / "out", quiet=True)
    return folder


def test_it_learns_what_tells_the_labels_apart(run: Path) -> None:
    scores = classify(recipe(run / "texts.jsonl"), out=run / "out", quiet=True).scores  # not trained again
    assert scores.accuracy is not None
    assert scores.accuracy > 0.9
    assert {c.label: c.texts for c in scores.classes}.keys() == WORDS.keys()
    assert sum(c.texts for c in scores.classes) == scores.texts
    assert sum(scores.usage) == pytest.approx(1.0)
    lines = read_metrics(run / "out" / "metrics.jsonl")
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert all(sum(line["usage"]) == pytest.approx(1.0) for line in lines)


def test_a_trained_one_answers_as_it_was_scored(run: Path) -> None:
    trained, found = Trained.load(run / "out"), read_examples(recipe(run / "texts.jsonl"))
    said = trained([e.text for e in found.held_out])
    scores = classify(recipe(run / "texts.jsonl"), out=run / "out", quiet=True).scores
    right = sum(each.answer == e.label for each, e in zip(said, found.held_out, strict=True))
    assert right / len(said) == pytest.approx(scores.accuracy)
    for i, name in enumerate(("ffn 0", "gru 1")):
        assert sum(each.expert == name for each in said) / len(said) == pytest.approx(scores.usage[i])
    assert all(sum(each.gate.values()) == pytest.approx(1.0) for each in said)


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(run: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "again"
    shutil.copytree(run / "out", out)
    steps = json.loads((out / "result.json").read_text())["steps"]
    (out / "result.json").unlink()
    checkpoints = CheckpointFolder(out / "checkpoints")
    assert checkpoints.steps()[-1] == steps
    remove(checkpoints.at(steps))
    classify(recipe(run / "texts.jsonl"), out=out, quiet=True)
    before, after = (read_metrics(folder / "metrics.jsonl") for folder in (run / "out", out))
    assert [line["loss"] for line in after] == [line["loss"] for line in before]


@pytest.mark.multiprocess
def test_two_ranks_learn_what_one_process_does(run: Path, tmp_path: Path) -> None:
    recipe(run / "texts.jsonl").save(tmp_path / "r.toml")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "-m", "grainline", "classify", str(tmp_path / "r.toml"), "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (run / "out", tmp_path / "two"))
    for key in ("loss", "entropy", "diversity", "grad_norm"):
        assert [x[key] for x in two[:10]] == pytest.approx([x[key] for x in one[:10]], rel=1e-3, abs=1e-5), key


def test_a_regression_learns_a_number(tmp_path: Path) -> None:
    scores_of = {"fruit": -0.5, "metal": 1.5}
    rows: list[dict[str, object]] = [{"text": row["text"], "score": scores_of[str(row["label"])]} for row in labelled()]
    keys: dict[str, Any] = {"task": "regression", "data": {"label_key": "score"}}
    wanted = recipe(write(tmp_path / "n.csv", rows), **keys)
    scores = classify(wanted, out=tmp_path / "out", quiet=True).scores
    assert scores.accuracy is None
    assert scores.pearson is not None
    assert scores.pearson > 0.5
    assert isinstance(Trained.load(tmp_path / "out")(["apple pear"])[0].answer, float)


def test_scores_are_those_of_a_table_by_hand() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = type("H", (), {"config": recipe("x.csv").head})()

        def forward(self, ids_BS: torch.Tensor, length_B: torch.Tensor) -> Any:
            said = ids_BS[:, 0]
            gate = torch.stack((1 - ids_BS[:, 1].double(), ids_BS[:, 1].double()), 1)
            out = torch.nn.functional.one_hot(said, 2).double()
            return type("A", (), {"out_BC": out, "gate_BE": gate, "expert_B": gate.argmax(1)})()

    from grainline.train.classify.tokens import Tokens

    # (said, expert) of four texts labelled a and two labelled b
    tokens = Tokens(((0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (0, 1)), torch.tensor([0, 0, 0, 0, 1, 1.0]))
    scores = evaluate(Fixed(), tokens, ("a", "b"))  # type: ignore[arg-type]
    a, b = scores.classes
    assert (scores.accuracy, a.recall, b.recall) == (pytest.approx(4 / 6), 0.75, 0.5)
    assert (a.precision, b.precision) == (0.75, 0.5)
    assert scores.macro_f1 == pytest.approx((0.75 + 0.5) / 2)
    assert (a.usage, b.usage, scores.usage) == ((0.5, 0.5), (0.0, 1.0), pytest.approx((2 / 6, 4 / 6)))
    assert mutual_information(torch.tensor([[5, 0], [0, 5]])) == pytest.approx(0.6931, abs=1e-4)
    assert mutual_information(torch.tensor([[4, 2], [8, 4]])) == pytest.approx(0.0, abs=1e-12)


def test_passages_of_a_document_are_on_one_side() -> None:
    found = read_examples(recipe("builtin", data={"languages": ["fr"], "max_examples": 400}))
    assert found.labels == ("debian-handbook", "wesnoth")
    assert not {e.group for e in found.train} & {e.group for e in found.held_out}
    assert all(len(e.text) >= 400 for e in found.train)
    assert passages("ab\n\ncd\n\nef", 4) == ["ab\n\ncd"]
    by = read_examples(recipe("builtin", data={"label_key": "language", "max_examples": 400}))
    assert {"en", "ja", "code"} <= set(by.labels)


@pytest.mark.parametrize(
    ("name", "rows", "tables", "message"),
    [
        ("a.jsonl", [{"text": "a", "lable": "x"}], {}, "line 1: has no 'label'. Did you mean 'lable'"),
        ("a.csv", [{"text": " ", "label": "x"}], {}, "line 2: 'text' is empty"),
        ("a.txt", [{"text": "a"}], {}, "are read from .jsonl, .csv and .tsv"),
        ("a.jsonl", labelled(20), {}, "a batch has 16"),
        ("a.tsv", [{"text": f"t {i}", "label": "x"} for i in range(60)], {}, "two labels at least"),
        ("a.jsonl", labelled(), {"task": "regression"}, "is no number"),
        ("a.jsonl", labelled(), {"learning_rate": {"peak": 0.1, "warmup_steps": 99}}, "must be fewer than the"),
    ],
)
def test_texts_that_cannot_be_learned_from_are_refused(
    tmp_path: Path, name: str, rows: list[dict[str, object]], tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(GrainlineError, match=message):
        classify(recipe(write(tmp_path / name, rows), **tables), out=tmp_path / "out", quiet=True)


def test_the_example_is_a_recipe_that_says_how_it_is_run() -> None:
    path = Path(__file__).parents[2] / "examples" / "classifiers" / "works.toml"
    assert ClassificationRecipe.load(path).data.label_key == "work"
    assert f"grainline classify examples/classifiers/{path.name}" in path.read_text()


def test_another_recipe_is_refused_in_the_same_folder(run: Path) -> None:
    with pytest.raises(GrainlineError, match=r"What differs: head.temperature: 1.5 -> 2"):
        classify(recipe(run / "texts.jsonl"), out=run / "out", overrides=["head.temperature=2"], quiet=True)
    with pytest.raises(GrainlineError, match="holds no classifier"):
        Trained.load(run / "elsewhere")


def test_the_command_shows_scores_and_the_gate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(run / "texts.jsonl").save(run / "r.toml")
    assert (
        main(["classify", str(run / "r.toml"), "--out", str(run / "out"), "--explain", "gate", "--text", "a fig"]) == 0
    )
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "by gru 1" in shown
    assert "nats in common" in shown
    assert "'a fig': fruit" in shown
