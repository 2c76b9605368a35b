"""What a quickstart left in its folder, read and checked once for the report, the summary and the model card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.formats import config_from_hf
from grainline.quickstart.words import BUILTIN_PARTS
from grainline.train.metrics import read_metrics

MODELS = ("sparse", "dense", "n-gram", "xz")
"""The order of columns and colours; others follow."""


@dataclass(frozen=True)
class Share:
    """One part of the text in one split."""

    part: str
    split: str  # "train" or "valid"
    documents: int
    bytes: int


@dataclass(frozen=True)
class Stage:
    """A step of the quickstart, and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Sample:
    """`text` follows `prompt`; it doesn't repeat it."""

    prompt: str
    text: str
    part: str
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """Bits per byte on held-out text, by model and part; "total" is all parts together."""

    parts: tuple[str, ...]
    bytes: Mapping[str, int]
    bits_per_byte: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what was measured, the sparse model first."""
        known = [name for name in MODELS if name in self.bits_per_byte]
        return (*known, *(name for name in self.bits_per_byte if name not in MODELS))

    @property
    def rows(self) -> tuple[str, ...]:
        """The parts, and their total where there are several."""
        return (*self.parts, "total") if len(self.parts) != 1 else self.parts

    def label(self, model: str) -> str:
        """How a model is called in tables."""
        return self.labels.get(model, model)

    def value(self, model: str, part: str) -> float | None:
        """None where this model wasn't measured on this part."""
        return self.bits_per_byte[model].get(part)

    def totals(self) -> dict[str, float]:
        """Of every model that has one."""
        found = {model: self.value(model, "total") for model in self.models}
        return {model: value for model, value in found.items() if value is not None}

    def best(self, part: str) -> frozenset[str]:
        """The models with the fewest bits, as shown: equal to three places is a tie."""
        values = {m: round(v, 3) for m in self.models if (v := self.value(m, part)) is not None}
        return frozenset(m for m, v in values.items() if v == min(values.values()))


@dataclass(frozen=True)
class Outline:
    """quickstart.json: what was asked for, on what, from which text, and how long it took."""

    grainline: str
    torch: str
    options: Mapping[str, Any]  # minutes, depth, text, seed
    machine: Mapping[str, Any]  # as hardware.Machine.as_dict
    budget: Mapping[str, Any]
    corpus: tuple[Share, ...]
    models: Mapping[str, Mapping[str, int]]  # parameter counts by model, as models.count.Parameters
    timings: tuple[Stage, ...]
    licences: str | None

    @property
    def text(self) -> tuple[str, ...]:
        """The sources that were asked for."""
        given = self.options.get("text") or ()
        return (given,) if isinstance(given, str) else tuple(map(str, given))

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.timings)

    @property
    def is_builtin(self) -> bool:
        """Whether the text is the corpus that ships with the package, and nothing else."""
        return set(self.text) <= {"builtin"}

    def part_name(self, part: str) -> str:
        """English for en; a part of somebody's own text keeps its name."""
        return BUILTIN_PARTS.get(part, part) if self.is_builtin else part


@dataclass(frozen=True)
class Facts:
    """Everything that the report shows."""

    outline: Outline
    evaluation: Evaluation
    samples: tuple[Sample, ...]
    recipe: str  # recipe.toml, as it is
    config: str | None  # the model's config.json, as it is
    metrics: Mapping[str, list[dict[str, Any]]]  # "sparse", and "dense" if there was one

    @property
    def model(self) -> ModelConfig | None:
        """What config.json says; None where there is none, or none that is whole."""
        try:
            tables = json.loads(self.config or "")
            return config_from_hf(tables) if isinstance(tables, dict) else None
        except (GrainlineError, ValueError):
            return None


def read_outline(folder: Path) -> Outline:
    """quickstart.json. Raises GrainlineError if it is missing or not whole."""
    path = folder / "quickstart.json"
    tables = _read_json(path)
    try:
        outline = Outline(
            grainline=str(tables["grainline"]),
            torch=str(tables["torch"]),
            options=dict(tables["options"]),
            machine=dict(tables["machine"]),
            budget=dict(tables["budget"]),
            corpus=tuple(Share(r["part"], r["split"], int(r["documents"]), int(r["bytes"])) for r in tables["corpus"]),
            models={name: dict(sizes) for name, sizes in tables["models"].items()},
            timings=tuple(Stage(row["stage"], float(row["seconds"])) for row in tables["timings"]),
            licences=tables.get("licences"),
        )
        for sizes in outline.models.values():
            _ = sizes["total"], sizes["active"]
        _ = outline.models["sparse"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _incomplete(path, error) from None
    return outline


def read_evaluation(folder: Path) -> Evaluation:
    """evaluation.json. Raises GrainlineError if it is missing or not whole."""
    path = folder / "evaluation.json"
    tables = _read_json(path)
    try:
        evaluation = Evaluation(
            parts=tuple(tables["parts"]),
            bytes={part: int(size) for part, size in tables["bytes"].items()},
            bits_per_byte={
                model: {part: float(v) for part, v in parts.items() if v is not None and math.isfinite(v)}
                for model, parts in tables["bits_per_byte"].items()
            },
            labels=dict(tables.get("labels") or {}),
        )
        for part in evaluation.parts:
            _ = evaluation.bytes[part], evaluation.bits_per_byte["sparse"][part]
        _ = evaluation.bits_per_byte["sparse"]["total"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _incomplete(path, error) from None
    return evaluation


def read_facts(folder: str | Path) -> Facts:
    """All files of a quickstart's folder.

    The dense baseline's metrics and the model's config.json may be missing; any other file that is raises
    GrainlineError with its name.
    """
    folder = Path(folder)
    path = folder / "samples.json"
    try:
        samples = tuple(
            Sample(str(row["prompt"]), str(row["text"]), str(row["part"]), int(row["seed"])) for row in _read_json(path)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _incomplete(path, error) from None
    metrics = {"sparse": _read_metrics(folder / "metrics.jsonl")}
    dense = folder / "baselines" / "dense" / "metrics.jsonl"
    if dense.is_file():
        metrics["dense"] = _read_metrics(dense)
    config = folder / "model" / "config.json"
    return Facts(
        outline=read_outline(folder),
        evaluation=read_evaluation(folder),
        samples=samples,
        recipe=_read_text(folder / "recipe.toml"),
        config=_read_text(config) if config.is_file() else None,
        metrics=metrics,
    )


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    lines = read_metrics(path)
    if not lines:
        raise _missing(path) if not path.exists() else GrainlineError(f"{path}: holds no metrics. {AGAIN}")
    return lines


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise GrainlineError(f"{path}: is not well-formed JSON: {error}. {AGAIN}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _missing(path) from None
    except UnicodeDecodeError:
        raise GrainlineError(f"{path}: is not UTF-8 text. {AGAIN}") from None


AGAIN = "Run `grainline quickstart` with the same --out again: it goes on where it stopped."


def _missing(path: Path) -> GrainlineError:
    return GrainlineError(f"{path}: no such file, and the quickstart's report needs it. {AGAIN}")


def _incomplete(path: Path, error: Exception) -> GrainlineError:
    what = f"the key {error} is missing" if isinstance(error, KeyError) else f"a value has the wrong type ({error})"
    return GrainlineError(f"{path}: {what}. {AGAIN}")
