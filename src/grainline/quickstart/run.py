"""The quickstart from beginning to end: stages in order, each remembered, so that the same command can go on."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from grainline import __version__
from grainline.data.files import refuse_inside
from grainline.documents import GrainlineError
from grainline.quickstart import stages
from grainline.quickstart.card import model_card
from grainline.quickstart.options import Options, QuickstartFolder
from grainline.quickstart.report import render
from grainline.quickstart.stages import Run

SCHEMA_VERSION = 1


class Stage(NamedTuple):
    """A named step of the way, and how it is done."""

    name: str
    do: Callable[[Run], None]


STAGES = (
    Stage("look at the machine", stages.see_machine),
    Stage("train the tokenizer", stages.make_tokenizer),
    Stage("measure speed, pack the text", stages.divide_time),
    Stage("train the sparse model", stages.train_sparse),
    Stage("train the dense baseline", stages.train_dense),
    Stage("evaluate", stages.evaluate),
    Stage("write samples", stages.write_samples),
)


def quickstart(
    options: Options, out: Path, *, fresh: bool = False, say: Callable[[str], None] | None = None, quiet: bool = False
) -> Path:
    """Do what is left to do in `out`, and return the report's path.

    A stopped quickstart goes on where it was, also after kill -9. `fresh` begins anew; `say` gets a line for each stage
    and what it found; `quiet` hides how far a stage is. Raises GrainlineError if `out` holds a quickstart with other
    options, or something else.
    """
    refuse_inside(out, options.text)
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    folder = QuickstartFolder(out)
    run = Run(options, folder, _facts(options, folder, fresh), say, quiet)
    done = {timing["stage"] for timing in _timings(run)}
    if done:
        say(f"Going on in {out}: {len(done)} of {len(STAGES)} stages are done.")
    for number, stage in enumerate(STAGES, 1):
        if stage.name in done:
            continue
        say(f"{number}/{len(STAGES)} {stage.name}")
        start = time.perf_counter()
        try:
            stage.do(run)
        finally:
            seconds = time.perf_counter() - start + run.facts.pop("unfinished_seconds", 0.0)
            finished = sys.exc_info()[0] is None
            if finished:
                run.know(timings=[*_timings(run), {"stage": stage.name, "seconds": seconds}])
            elif folder.facts.is_file():
                run.know(unfinished_seconds=seconds)
    (folder.model / "README.md").write_text(model_card(out), encoding="utf-8")
    return render(out)


def _timings(run: Run) -> list[dict[str, Any]]:
    timings: list[dict[str, Any]] = run.facts.get("timings", [])
    return timings


def _facts(options: Options, folder: QuickstartFolder, fresh: bool) -> dict[str, Any]:
    """What an earlier start found, if it is the same quickstart; else the beginning of a new one."""
    begun = {
        "schema_version": SCHEMA_VERSION,
        "grainline": __version__,
        "torch": torch.__version__,
        "options": options.tables(),
        "command": "grainline " + " ".join(sys.argv[1:]) if sys.argv[1:2] == ["quickstart"] else None,
    }
    if not folder.facts.is_file():
        if folder.out.is_dir() and any(folder.out.iterdir()):
            raise GrainlineError(f"{folder.out} holds something that isn't a quickstart. Name another folder (--out).")
        return begun
    if fresh:
        shutil.rmtree(folder.out)
        return begun
    try:
        before: dict[str, Any] = json.loads(folder.facts.read_text(encoding="utf-8"))
        asked = before["options"]
    except (ValueError, KeyError, TypeError):
        raise GrainlineError(f"{folder.facts} can't be read. Begin anew (--fresh), or name another folder.") from None
    if asked != options.tables() and len(before.get("timings", ())) > 1:  # else only the machine was looked at
        changed = [f"{k}: {asked.get(k)} → {v}" for k, v in options.tables().items() if asked.get(k) != v]
        raise GrainlineError(
            f"{folder.out} holds a quickstart with other options ({'; '.join(changed)}). "
            "Begin anew (--fresh), or name another folder (--out)."
        )
    return before if asked == options.tables() else begun
