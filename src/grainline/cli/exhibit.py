"""`grainline exhibit`: see a published claim stand or fall here."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grainline.documents import GrainlineError, make_folder, write_atomically

if TYPE_CHECKING:
    from grainline.exhibits.find import Measure
    from grainline.exhibits.frame import Claim
    from grainline.exhibits.run import Outcome


def run(
    names: tuple[str, ...] = (),
    /,
    *,
    all: bool = False,
    list: bool = False,
    quick: bool = False,
    json: bool = False,
    save: Path | None = None,
    gallery: Path | None = None,
) -> int:
    """Measure what published systems claim, and say whether it holds here.

    The exit code is 1 if an exhibit failed to run; a claim that falls short is a result, not a failure.

      grainline exhibit ling2 --quick
      grainline exhibit ling2.wsm --save docs/exhibits/results
      grainline exhibit --gallery exhibits.html

    Args:
        names: exhibits, such as ling2, or single claims of them, such as ling2.wsm
        all: every exhibit
        list: say what exhibits there are
        quick: a minute at most for each: it proves that it runs, and its verdict is what so little data allows
        json: print a JSON list of results
        save: a folder to keep full results in, with commit and machine
        gallery: write one HTML page of all exhibits; shows results kept in --save or docs/exhibits/results
    """
    from grainline.exhibits.find import find
    from grainline.exhibits.keep import FOLDER, kept

    if quick and save is not None:
        raise GrainlineError("--save keeps full runs only: leave out --quick.")
    if names and all:
        raise GrainlineError("name exhibits, or say --all, not both.")
    chosen = find(names)
    if list:
        _list(tuple(chosen), json)
        return 0
    if not names and not all and gallery is None:
        raise GrainlineError("name an exhibit, or say --all. grainline exhibit --list says what there is.")
    _check_writable(save, gallery)
    outcomes = _run(chosen, quick, json, save) if names or all else []
    if json:
        from grainline.exhibits.render import as_json

        print(as_json(outcome.result for outcome in outcomes))
    if gallery is not None:
        from grainline.exhibits.gallery import cards, page

        folder = FOLDER if save is None else save
        shown = cards(find(()), kept(folder), [outcome.result for outcome in outcomes])
        write_atomically(gallery, page(shown))
        print(f"The gallery is in {gallery}.", file=sys.stderr)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _check_writable(save: Path | None, gallery: Path | None) -> None:
    """Raise GrainlineError now, rather than after hours, if results can't be written where they should be."""
    for folder in (save, None if gallery is None else gallery.parent):
        if folder is not None:
            make_folder(folder)
    if gallery is not None and gallery.is_dir():
        raise GrainlineError(f"--gallery {gallery}: is a folder; name the page to write in it.")


def _run(chosen: Mapping[Claim, Measure], quick: bool, json: bool, save: Path | None) -> list[Outcome]:
    """Outcomes, told and kept one by one, so that what is done by Ctrl-C is not lost."""
    from rich.console import Console

    from grainline.exhibits.keep import keep
    from grainline.exhibits.render import card
    from grainline.exhibits.run import run_all

    console, outcomes = Console(stderr=json), []
    for outcome in run_all(chosen, quick=quick, tell=lambda line: print(line, file=sys.stderr, flush=True)):
        outcomes.append(outcome)
        console.print(card(outcome.result, outcome.problem))
        if save is not None:
            for path in keep(outcome, save):
                print(f"Kept in {path}.", file=sys.stderr)
    return outcomes


def _list(claims: Sequence[Claim], json: bool) -> None:
    if json:
        print(json_module.dumps([{"name": claim.name, "claim": claim.text} for claim in claims], indent=2))
        return
    from rich.console import Console

    from grainline.exhibits.render import listing

    Console().print(listing(claims))
