"""Run exhibits one after another: what one of them does wrong stops none of the others."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    for claim, measure in chosen.items():
        started = time.monotonic()
        tell(f"{claim.name}: measuring {claim.quantity}")
        try:
            measurement = measure(Scale.of(claim, quick, _prefixed(tell, claim.name)))
            result = judge(claim, measurement, quick)
        except NotRun as reason:
            yield _without(claim, quick, started, str(reason), failed=False)
        except GrainlineError as error:
            yield _without(claim, quick, started, str(error), failed=True)
        except Exception:
            yield _without(claim, quick, started, traceback.format_exc(), failed=True)
        else:
            yield Outcome(result, time.monotonic() - started, measurement.details)


def _prefixed(tell: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda line: tell(f"{name}: {line}")


def _without(claim: Claim, quick: bool, started: float, problem: str, *, failed: bool) -> Outcome:
    return Outcome(judge(claim, None, quick), time.monotonic() - started, {}, problem, failed)
