"""What flows through a filter pipeline: sizes, truth, decisions, power and price, from the sources to the end.

Pure passes over the tree (Olin-Ammentorp et al., arXiv 2407.00123): sizes add up, each stage's threshold follows from
its reduction, and what passes goes on. Scores of stages are taken as independent given what a message truly is. There
are no queues here: see `queueing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from grainline.documents import GrainlineError
from grainline.documents.filter_checks import offered_hz
from grainline.documents.filters import Filters, FilterStage, MessageSource
from grainline.plan.filters.scores import Cut, Rates, scores_of
from grainline.plan.filters.units import Units, units_of

NOTHING = Rates(0.0, 0.0)


@dataclass(frozen=True)
class Step:
    """One source or stage. Bytes are of a message, rates of messages per second."""

    name: str
    to: str | None
    rates: Rates  # that come in
    passed: Rates
    bytes: float  # as worked on
    sent_bytes: float
    cut: Cut
    work: Units
    watts: float
    link_watts: float
    devices: float  # that are busy all the time
    dollars_per_hour: float  # of devices

    @property
    def sent_bytes_per_second(self) -> float:
        """On the way to the next stage."""
        return self.passed.total * self.sent_bytes if self.to is not None else 0.0


@dataclass(frozen=True)
class Contingency:
    """Messages per second over the whole pipeline: decision by truth."""

    rejected: Rates
    passed: Rates

    @property
    def precision(self) -> float:
        """Relevant ones of those that pass."""
        return self.passed.relevant / self.passed.total if self.passed.total else 0.0

    @property
    def recall(self) -> float:
        """Of relevant messages, those that pass."""
        return self.passed.relevant / (self.passed.relevant + self.rejected.relevant)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Flow:
    """The pipeline as a whole."""

    steps: dict[str, Step]
    contingency: Contingency
    scale: float  # energies are divided by it: technology

    @property
    def watts(self) -> float:
        """Of stages and links."""
        return sum(step.watts + step.link_watts for step in self.steps.values())

    @property
    def link_watts(self) -> float:
        """Of links alone."""
        return sum(step.link_watts for step in self.steps.values())

    @property
    def relevant_hz(self) -> float:
        """P."""
        return self.contingency.passed.relevant + self.contingency.rejected.relevant

    @property
    def productivity(self) -> float:
        """Relevant samples per joule: F1 · P / power; 0 where nothing takes any."""
        return self.contingency.f1 * self.relevant_hz / self.watts if self.watts else 0.0

    def joules_per_message(self, stage: str) -> float:
        """Spent on a message that gets through a stage, on the way of all its parts; what is thrown away isn't in it.

        Messages of different inputs that are no parts of one (merge ``sum``) count by their rates.
        """
        step = self.steps[stage]
        rate = step.rates.total
        if not rate:
            return math.inf
        before = sum(
            one.link_watts + (self.joules_per_message(one.name) * one.passed.total)
            for one in self.steps.values()
            if one.to == stage
        )
        return (before + step.watts) / rate


def flow_of(filters: Filters, folder: Path, where: str = "<memory>") -> Flow:
    """Everything that the document implies; `folder` holds the files that it names.

    Raises GrainlineError that names file and key.
    """
    scale = math.exp(filters.technology.growth_per_year * (filters.technology.year - filters.technology.reference_year))
    relevant = filters.relevant_hz
    share = relevant / offered_hz(filters)
    if share > 1:
        raise GrainlineError(f"{where}: relevant_rate_hz: {relevant:g} is more than reaches the end. Lower it.")
    steps: dict[str, Step] = {}
    for name, source in filters.sources.items():
        steps[name] = _source(name, source, share, filters, scale)
    for name in filters.order():
        try:
            steps[name] = _stage(name, filters, [steps[one] for one in filters.inputs(name)], folder, scale)
        except GrainlineError as error:
            raise GrainlineError(f"{where}: stages.{name}: {str(error).rstrip('.')}.") from None
    stages = [steps[name] for name in filters.stages]
    rejected = Rates(
        sum(one.rates.irrelevant - one.passed.irrelevant for one in stages),
        sum(one.rates.relevant - one.passed.relevant for one in stages),
    )
    return Flow(steps, Contingency(rejected, steps[filters.end].passed), scale)


def _source(name: str, source: MessageSource, share: float, filters: Filters, scale: float) -> Step:
    rates = Rates(source.rate_hz * (1 - share), source.rate_hz * share)
    sent = source.bytes * (1 - source.compression)
    link = (source.link or filters.link).joules_per_bit * 8 * sent * source.rate_hz / scale
    cut = Cut(None, 0.0, 0.0)
    return Step(name, source.to, rates, rates, source.bytes, sent, cut, Units(0.0), 0.0, link, 0.0, 0.0)


def _stage(name: str, filters: Filters, fed: list[Step], folder: Path, scale: float) -> Step:
    stage = filters.stages[name]
    rates, size = _merged(stage, fed)
    size += stage.adds_bytes
    cut = scores_of(stage.classifier, folder).cut(rates, 1 - 1 / stage.reduction) if rates.total else Cut(None, 0, 0)
    passed = Rates(rates.irrelevant * (1 - cut.irrelevant), rates.relevant * (1 - cut.relevant))
    work = units_of(stage.work, size, folder)
    sent = size * (1 - stage.compression)
    link = 0.0 if stage.to is None else (stage.link or filters.link).joules_per_bit * 8 * sent * passed.total / scale
    units_per_second = work.units * rates.total
    devices = units_per_second * stage.seconds_per_unit
    watts = units_per_second * stage.joules_per_unit / scale
    price = devices * stage.device_price_per_hour
    return Step(name, stage.to, rates, passed, size, sent, cut, work, watts, link, devices, price)


def _merged(stage: FilterStage, fed: list[Step]) -> tuple[Rates, float]:
    """Rates and bytes of what comes together: parts of one message, or messages of their own."""
    total = sum(one.passed.total for one in fed)
    if stage.merge == "sum":
        size = sum(one.sent_bytes * one.passed.total for one in fed) / total if total else 0.0
        return Rates(sum(one.passed.irrelevant for one in fed), sum(one.passed.relevant for one in fed)), size
    meet = max if stage.merge == "max" else min
    return meet((one.passed for one in fed), key=lambda rates: rates.total), sum(one.sent_bytes for one in fed)


def dollars_per_hour(flow: Flow, dollars_per_kwh: float) -> float:
    """Devices, and the electricity of everything."""
    return sum(one.dollars_per_hour for one in flow.steps.values()) + flow.watts / 1e3 * dollars_per_kwh
