"""Filters: a staged filter pipeline. Sources of messages, stages that throw most of them away, links, alternatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from grainline.documents import filter_checks
from grainline.documents.base import Document, Part

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Wire(Part):
    """What a bit costs on its way to the next stage."""

    joules_per_bit: NonNegativeFloat = 0.0


class MessageSource(Part):
    """What makes messages."""

    bytes: Positive = Field(description="of a message")
    rate_hz: Positive = Field(description="messages per second")
    to: str = Field(description="the stage that they go to")
    compression: float = Field(0.0, ge=0, lt=1, description="share of the bytes that is gone before the link")
    link: Wire | None = Field(None, description="default: the document's")


class Work(Part):
    """Units of work that one message takes, by its bytes: exactly one of the first three, times the last."""

    per_bytes: Positive | None = Field(None, description="one unit for each so many bytes")
    table: str | None = Field(None, description="a .csv file beside this one with columns bytes and units")
    profile: str | None = Field(None, description="a stage's profile (.csv, docs/filters.md): a unit is a second")
    fit: Literal["linear", "cubic", "power"] | None = Field(
        None,
        description="of a table: a line, a cubic without constant, or a power law, by least squares, also beyond its "
        "rows; default: straight lines between rows, and none beyond",
    )
    times: Positive = Field(1.0, description="so many times the units, as for other hardware")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(x is not None for x in (self.per_bytes, self.table, self.profile)) != 1:
            raise ValueError("set exactly one of per_bytes, table, profile")
        if self.fit is not None and self.table is None:
            raise ValueError("fit goes with table")
        return self


class Classifier(Part):
    """How well a stage tells relevant messages from others: by the distributions of its score, or as one point.

    gaussian: irrelevant scores are N(0, 1), relevant ones N(skill, sigma). empirical: as measured, in `scores`. point:
    shares that pass, whatever the reduction says.
    """

    kind: Literal["pass", "gaussian", "empirical", "point"] = "pass"
    skill: float | None = Field(None, description="gaussian: how far apart the means are")
    sigma: Positive | None = Field(None, description="gaussian: deviation of relevant scores")
    scores: str | None = Field(
        None,
        description="empirical: a .csv file beside this one, with columns score and relevant (0 or 1), a row per "
        "message, or score, irrelevant_below and relevant_below, which are shares",
    )
    boost: float = Field(0.0, description="empirical: added to every relevant score")
    ties: Literal["refuse", "random"] = Field(
        "refuse", description="empirical: whether a share of messages with one score may pass at random"
    )
    irrelevant_pass: Share | None = Field(None, description="point: share of irrelevant messages that pass")
    relevant_pass: Share | None = Field(None, description="point: share of relevant messages that pass")

    @model_validator(mode="after")
    def _kinds_are_whole(self) -> Self:
        wanted = {
            "pass": (),
            "gaussian": ("skill", "sigma"),
            "empirical": ("scores",),
            "point": ("irrelevant_pass", "relevant_pass"),
        }
        for kind, keys in wanted.items():
            for key in keys:
                if (kind == self.kind) != (getattr(self, key) is not None):
                    needs = "also needs" if kind == self.kind else "has no"
                    raise ValueError(f"kind '{self.kind}' {needs} {key}")
        if self.kind != "empirical" and (self.boost or self.ties != "refuse"):
            raise ValueError("boost and ties go with kind 'empirical'")
        return self


class FilterStage(Part):
    """What messages of sources and other stages go through."""

    to: str | None = Field(None, description="the next stage; the one stage without is the end")
    adds_bytes: NonNegativeFloat = Field(0.0, description="what the stage adds to every message, before its work")
    reduction: float = Field(1.0, ge=1, description="R: of R messages one passes")
    classifier: Classifier = Classifier()
    merge: Literal["same", "min", "max", "sum"] = Field(
        "same",
        description="several inputs: parts of one message, which come at the same rate (same), at that of the slowest "
        "(min) or fastest (max); or messages of their own (sum)",
    )
    compression: float = Field(0.0, ge=0, lt=1, description="share of the bytes that is gone before the link")
    work: Work | None = None
    joules_per_unit: NonNegativeFloat = Field(0.0, description="of work, on silicon of technology.reference_year")
    seconds_per_unit: NonNegativeFloat = Field(0.0, description="of work, on one device")
    device_price_per_hour: NonNegativeFloat = Field(0.0, description="US dollars")
    link: Wire | None = Field(None, description="default: the document's")


class Technology(Part):
    """How energy per unit falls with the years: by exp(growth · (year − reference_year)), links included.

    The default doubles density every 3.7 years (fit to IEDM 2022, as in arXiv 2407.00123).
    """

    year: int = 2022
    reference_year: int = 2022
    growth_per_year: NonNegativeFloat = 0.18717
    fit_years: tuple[int, int] = Field((2022, 2037), description="first and last year that the fit is trusted in")

    @model_validator(mode="after")
    def _year_is_in_the_fit(self) -> Self:
        first, last = self.fit_years
        if not first <= self.year <= last:
            raise ValueError(f"year {self.year} lies outside fit_years {first} to {last}: take one of these")
        return self


class Filters(Document):
    """A tree of sources and stages that ends in one stage; `alternatives` are keys that are set otherwise."""

    kind: ClassVar[str] = "filter pipeline"

    name: str = ""
    sources: dict[str, MessageSource] = Field(min_length=1)
    stages: dict[str, FilterStage] = Field(min_length=1)
    link: Wire = Wire()
    technology: Technology = Technology()
    relevant_rate_hz: Positive | None = Field(
        None, description="P: relevant messages per second; default: as many as the last stage lets through"
    )
    dollars_per_kwh: NonNegativeFloat = 0.0
    alternatives: dict[str, dict[str, Any]] = Field(
        default={}, description='{gpu = {"stages.hlt.work.times" = 0.5}}: dotted keys and their other values'
    )

    @model_validator(mode="after")
    def _holds(self) -> Self:
        filter_checks.check(self)
        return self

    @property
    def end(self) -> str:
        """The stage that everything goes to."""
        return next(name for name, stage in self.stages.items() if stage.to is None)

    def order(self) -> Iterator[str]:
        """Stages, each after those that feed it."""
        return iter(filter_checks.order(self))

    def inputs(self, stage: str) -> tuple[str, ...]:
        """Sources, then stages, that go to this one."""
        both: Mapping[str, MessageSource | FilterStage] = {**self.sources, **self.stages}
        return tuple(name for name, one in both.items() if one.to == stage)

    def overlaid(self, names: tuple[str, ...], where: str = "<memory>") -> Filters:
        """With these alternatives made so. The relevant rate stays that of the pipeline without them.

        Raises GrainlineError for an unknown alternative, and for two that set one key.
        """
        return filter_checks.overlaid(self, names, where)

    @property
    def relevant_hz(self) -> float:
        """P, given or derived: room for all relevant messages and no more."""
        return self.relevant_rate_hz or filter_checks.offered_hz(self) / filter_checks.reduction(self)
