"""Run exhibits one after another: what one of them does wrong stops none of the others."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grainline.documents import GrainlineError
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, NotRun, Result, Scale, judge


@dataclass(frozen=True)
class Outcome:
    """A result with what full runs keep beside it. `problem` says why there is none; `failed`: the exhibit's fault."""

    result: Result
    seconds: float
    details: Mapping[str, Any]
    problem: str = ""
    failed: bool = False


def run_all(chosen: Mapping[Claim, Measure], *, quick: bool, tell: Callable[[str], None]) -> Iterator[Outcome]:
    """The outcome of each claim, as soon as it is there. Ctrl-C goes through."""
    # One folder for all, so that claims about the same training run need it only once.
    with TemporaryDirectory(prefix="grainline-exhibits-") as folder:
        for claim, measure in chosen.items():
            tell(f"{claim.name}: measuring {claim.quantity}")
            yield _outcome(claim, measure, Scale.of(claim, quick, Path(folder), _prefixed(tell, claim.name)))


def _outcome(claim: Claim, measure: Measure, scale: Scale) -> Outcome:
    started, details, problem, failed = time.monotonic(), {}, "", False
    measurement = None
    try:
        measurement = measure(scale)
        details = dict(measurement.details)
    except NotRun as reason:
        problem = str(reason)
    except GrainlineError as error:
        problem, failed = str(error), True
    except Exception:
        problem, failed = traceback.format_exc(), True
    return Outcome(judge(claim, measurement, scale.quick), time.monotonic() - started, details, problem, failed)


def _prefixed(tell: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda line: tell(f"{name}: {line}")
