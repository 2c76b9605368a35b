"""What must hold in a filter pipeline beyond the type of each key, and its alternatives. Errors name key and value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from grainline.documents.errors import GrainlineError, nearest

if TYPE_CHECKING:
    from grainline.documents.filters import Filters

EQUAL = 1e-9  # relative


def check(filters: Filters) -> None:
    """Raise ValueError with the first thing that doesn't hold."""
    both = sorted(filters.sources.keys() & filters.stages.keys())
    if both:
        raise ValueError(f"stages: '{both[0]}' is a source, too; give it another name")
    for kind, table in (("sources", filters.sources), ("stages", filters.stages)):
        for name, one in table.items():
            if one.to is not None and one.to not in filters.stages:
                raise ValueError(f"{kind}.{name}.to: no stage is named '{one.to}'.{nearest(one.to, filters.stages)}")
    order(filters)
    ends = [name for name, stage in filters.stages.items() if stage.to is None]
    if len(ends) > 1:
        raise ValueError(f"stages: {', '.join(ends)} go nowhere, and one end is wanted: set `to` in the others")
    unfed = [name for name in filters.stages if not filters.inputs(name)]
    if unfed:
        raise ValueError(f"stages.{unfed[0]}: no source and no stage goes to it; name it in a `to`, or leave it out")
    for name, stage in filters.stages.items():
        fed = filters.inputs(name)
        filtering = [one for one in fed if one in filters.stages and filters.stages[one].reduction > 1]
        if stage.merge != "sum" and len(fed) > 1 and filtering:
            raise ValueError(
                f"stages.{filtering[0]}: filters one part of the messages that '{name}' puts together; filter after "
                f"'{name}', or set stages.{name}.merge = 'sum' if they are messages of their own"
            )
        if stage.reduction > 1 and stage.classifier.kind == "pass":
            raise ValueError(
                f"stages.{name}.reduction: {stage.reduction:g} needs a classifier that says which pass; kind 'pass' "
                "lets all through"
            )
    rate = offered_hz(filters)
    if filters.relevant_rate_hz is not None and filters.relevant_rate_hz > rate * (1 + EQUAL):
        raise ValueError(
            f"relevant_rate_hz: {filters.relevant_rate_hz:g} is more than the {rate:g} messages per second"
        )
    for name, alternative in filters.alternatives.items():
        for key in alternative:
            _target(filters.tables(), key, f"alternatives.{name}")


def order(filters: Filters) -> tuple[str, ...]:
    """Stages, each after those that feed it; ValueError names a ring."""
    graph = {name: {one for one in filters.inputs(name) if one in filters.stages} for name in filters.stages}
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(
            f"stages: {' → '.join(reversed(error.args[1]))} is a ring; let one of them go elsewhere"
        ) from None


def offered_hz(filters: Filters) -> float:
    """Messages per second that would reach the end if nothing were thrown away."""
    rate = {name: source.rate_hz for name, source in filters.sources.items()}
    for name in order(filters):
        rates = [rate[one] for one in filters.inputs(name)]
        merge = filters.stages[name].merge
        if merge == "same" and max(rates) > min(rates) * (1 + EQUAL):
            raise ValueError(
                f"stages.{name}.merge: its inputs come at unequal rates, {min(rates):g} to {max(rates):g} per second; "
                "say how they meet: min, max or sum"
            )
        rate[name] = {"sum": sum, "min": min, "max": max, "same": max}[merge](rates)  # type: ignore[operator]
    return float(rate[filters.end])


def reduction(filters: Filters) -> float:
    """Π R from the sources to the end; ValueError where it is another on another way."""
    of: dict[str, set[float]] = {name: {1.0} for name in filters.sources}
    for name in order(filters):
        of[name] = {r * filters.stages[name].reduction for one in filters.inputs(name) for r in of[one]}
    found = of[filters.end]
    if max(found) > min(found) * (1 + EQUAL):
        raise GrainlineError("relevant_rate_hz: is required where messages are reduced unequally on their ways.")
    return max(found)


def overlaid(filters: Filters, names: Sequence[str], where: str) -> Filters:
    """`filters` with alternatives made so, and its relevant rate kept."""
    tables = {**filters.tables(), "relevant_rate_hz": filters.relevant_hz, "alternatives": {}}
    setter: dict[str, str] = {}
    for name in names:
        if name not in filters.alternatives:
            known = nearest(name, filters.alternatives) or " The file has none."
            raise GrainlineError(f"{where}: there is no alternative '{name}'.{known}")
        for key, value in filters.alternatives[name].items():
            for other, before in setter.items():
                if conflict((key,), (other,)) and before != name:
                    raise GrainlineError(f"{where}: alternatives {before} and {name} both set {other}; take one.")
            setter[key] = name
            tables = assigned(tables, key, value)
    return type(filters).parse(tables, f"{where} with {' + '.join(names)}" if names else where)


def conflict(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two sets of dotted keys set one thing: one key twice, or a key and the table that it is in."""
    others = tuple(others)
    return any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in some for b in others)


def assigned(tables: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `tables` with one dotted key set."""
    head, _, rest = key.partition(".")
    return {**tables, head: assigned(tables.get(head) or {}, rest, value) if rest else value}


def _target(tables: Any, key: str, where: str) -> None:
    """ValueError unless the tables on the way to a dotted key are there (what they hold is checked when it is set)."""
    *way, _ = key.split(".")
    for step in way[:2]:
        if not isinstance(tables, dict) or step not in tables:
            known = tables if isinstance(tables, dict) else ()
            raise ValueError(f"{where}: '{key}' leads to no key of the file.{nearest(step, known)}")
        tables = tables[step]
