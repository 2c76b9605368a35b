"""`grainline plan filters`: rates, bytes, quality, power and price of a filter pipeline, and of its alternatives."""

from __future__ import annotations

from pathlib import Path

from grainline.cli.tell import tell
from grainline.documents import GrainlineError


def run(
    filters: Path,
    /,
    *,
    alternative: tuple[str, ...] = (),
    compare: bool = False,
    optimise: tuple[str, str] | None = None,
    recall: float | None = None,
    messages: int = 0,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Model a pipeline of filters from end to end: what passes, how good it is, what it takes.

    Sources send messages through stages that each throw a share away by a classifier's score, or put parts together. A
    file says all of it, alternatives included (docs/filters.md).

      grainline plan filters examples/filters/cms.toml
      grainline plan filters examples/filters/cms.toml --alternative gpu_hlt smart_pixels --compare --html cms.html
      grainline plan filters examples/filters/cms.toml --optimise level1 hlt --recall 0.5

    Args:
        filters: a filter pipeline (.toml or .json)
        alternative: alternatives of the file that are taken, all at once; with --compare: those that are compared
        compare: all combinations of alternatives, and which of them are beaten by none
        optimise: an early and a late stage, whose reductions are shared out anew for least power at --recall
        recall: with --optimise: share of relevant messages that must pass; default: as many as pass now
        messages: so many single messages through the stages that take time, to see how long they wait; default: none
        json: print one JSON object
        html: write one page with tables and figures
    """
    from grainline.cli.filters_report import as_json, report
    from grainline.documents.filters import Filters
    from grainline.plan.filters import alternatives as others
    from grainline.plan.filters.optimise import least_power
    from grainline.plan.filters.queueing import queued

    if recall is not None and optimise is None:
        raise GrainlineError("--recall: goes with --optimise, which stages are to be changed.")
    if recall is not None and not 0 < recall <= 1:
        raise GrainlineError(f"--recall {recall:g}: must lie between 0 and 1.")
    if compare and optimise is not None:
        raise GrainlineError("--optimise: goes with one pipeline; leave out --compare.")
    if messages < 0:
        raise GrainlineError(f"--messages {messages}: can't be negative.")
    document, folder, where = Filters.load(filters), filters.parent, str(filters)
    combined = others.compare(document, folder, where, alternative) if compare else []
    one = others.evaluate(document, folder, where, () if compare else alternative)
    changed = document.overlaid(one.names, where)
    split = None
    if optimise is not None:
        least = one.flow.contingency.recall if recall is None else recall
        split = least_power(changed, folder, where, optimise, least)
    worth = others.elasticities(changed, folder, where) if one.flow.productivity else {}
    waiting = None
    if messages:
        try:
            waiting = queued(changed, one.flow, messages)
        except GrainlineError as error:
            raise GrainlineError(f"{where}: {error}") from None
    told = report(changed, one, combined, worth, split, waiting, draw=html is not None)
    tell(told, as_json(one, combined, worth, split, waiting), json=json, html=html)
    return 0
