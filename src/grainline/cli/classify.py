"""`grainline classify`: train a classifier, score it, and ask it."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline.cli.arguments import Settings

if TYPE_CHECKING:
    from grainline.train.classify import Scores


def run(
    recipe: Path,
    /,
    *,
    out: Path | None = None,
    set: Settings = (),
    text: tuple[str, ...] = (),
    explain: Literal["nothing", "gate"] = "nothing",
    no_resume: bool = False,
    json: bool = False,
) -> int:
    """Train a classifier (or a regression) on labelled texts and score it on held-out ones; stop and resume any time.

    Its head is a gate and experts of unlike kinds, of which each text is answered by one (Hecto). A run that came to
    its end isn't trained again: the same command then shows its scores, or answers texts.

      grainline classify examples/classifiers/works.toml --explain gate
      grainline classify examples/classifiers/works.toml --text "In the beginning God created the heavens"
      torchrun --nproc-per-node 2 -m grainline classify recipe.toml

    Args:
        recipe: the classification recipe, a .toml or .json file
        out: folder of the run; default: runs/ and the recipe's name
        set: one key of the recipe, as often as wanted
        text: texts to be answered once it is trained
        explain: gate: which expert answers the texts of each class, and how sure the gate is
        no_resume: delete what an earlier run left in the folder, and start anew
        json: print one JSON object with the scores and answers
    """
    from grainline.documents.classification import ClassificationRecipe
    from grainline.train.classify import Trained, classify

    wanted = ClassificationRecipe.load(recipe, set)
    folder = out if out is not None else Path("runs") / wanted.name
    result = classify(wanted, out=folder, resume=not no_resume)
    if os.environ.get("RANK", "0") != "0":
        return 0
    said = Trained.load(folder)(text) if text else []
    if json:
        answers = [vars(each) for each in said]
        print(json_module.dumps({**result.as_dict(), "answers": answers}, indent=2, ensure_ascii=False))
        return 0
    _show(result.scores, explain == "gate")
    for asked, each in zip(text, said, strict=True):
        sure = ", ".join(f"{name} {share:.0%}" for name, share in each.gate.items())
        print(f"{asked[:60]!r}: {each.answer}  (by {each.expert}; gate {sure})")
    return 0


def _show(scores: Scores, gate: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{scores} on {scores.texts:,} held-out texts")
    names = [f"{kind} {i}" for i, kind in enumerate(scores.experts)]
    table = Table("label", box=None, pad_edge=False)
    columns = ["texts", "precision", "recall", "F1"] if scores.accuracy is not None else ["texts"]
    columns += [f"{what} {name}" for name in names for what in ("by", "gate")] if gate else []
    for column in columns:
        table.add_column(column, justify="right")
    for each in scores.classes:
        row = [f"{each.texts:,}"]
        if scores.accuracy is not None:
            row += [f"{value:.3f}" for value in (each.precision, each.recall, each.f1)]
        if gate:
            row += [f"{value:.1%}" for pair in zip(each.usage, each.gate, strict=True) for value in pair]
        table.add_row(each.label, *row)
    console.print(table)
    if gate:
        console.print(
            "by: share of the texts that this expert answers; gate: its mean probability. "
            f"Label and expert have {scores.information:.3f} nats in common."
        )
