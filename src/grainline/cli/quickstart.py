"""`grainline quickstart`: from raw text to a trained, evaluated, ready-to-serve sparse model."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from grainline.cli.arguments import Settings
from grainline.documents import GrainlineError


def run(
    *,
    minutes: float = 5.0,
    out: Path = Path("runs/quickstart"),
    text: tuple[str, ...] = ("builtin",),
    depth: int | None = None,
    seed: int = 0,
    set: Settings = (),
    fresh: bool = False,
    json: bool = False,
) -> int:
    """From raw text to a trained, evaluated, ready-to-serve sparse model, in a few minutes on any machine.

    Trains a tokenizer and a Ling-2.0-style mixture of experts, compares it with a dense model of the same active size,
    an n-gram model and xz, writes samples and a report. Stop it at any time: the same command goes on.

      grainline quickstart --minutes 1
      grainline quickstart --text ~/notes '~/mail/*.txt' --minutes 30 --out runs/mine
      grainline quickstart --set moe.router=expert-choice --out runs/expert-choice

    Args:
        minutes: about how long it may take, at least 1
        out: folder for everything that is made
        text: files, folders or globs of .txt .md .jsonl[.gz|.zst] .parquet; the built-in corpus if left out
        depth: layers of the model, and with them all its sizes; chosen by the time there is if left out
        seed: of initial weights, order of the text and samples
        set: one key of the sparse model's config, as often as wanted; what it needs beside it is set along with it
        fresh: begin anew, deleting what an earlier quickstart left in the folder
        json: print one JSON object with the figures and paths, and only that, on standard output
    """
    from grainline.quickstart.options import MOST_MINUTES, Options, QuickstartFolder
    from grainline.quickstart.report import summary
    from grainline.quickstart.run import quickstart

    if not 1 <= minutes <= MOST_MINUTES:  # nan is neither
        raise GrainlineError(f"--minutes {minutes:g}: must be a number between 1 and {MOST_MINUTES:,.0f}.")
    report = quickstart(Options(minutes, depth, text, seed, set), out, fresh=fresh)
    if json:
        evaluation = json_module.loads(QuickstartFolder(out).evaluation.read_text(encoding="utf-8"))
        paths = {"report": str(report), "model": str(QuickstartFolder(out).model)}
        print(json_module.dumps({"bits_per_byte": evaluation["bits_per_byte"], **paths}))
        return 0
    from rich.console import Console

    Console().print(summary(out))
    print(
        f"\nThe report: {report}\n\nWhat next:\n"
        f'  grainline generate {out}/model "Once upon a time"\n'
        f"  grainline serve {out}/model\n"
        f"  grainline quickstart --minutes 30 --out runs/longer      a better model\n"
        f"  grainline quickstart --text YOUR_FOLDER --out runs/mine   on your own text\n"
        f"  grainline train {out}/recipe.toml --out runs/mine --set training.steps=1000"
    )
    return 0
