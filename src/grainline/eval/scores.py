"""Bits per byte by part of a corpus (a language, a section), and of all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from grainline.documents import GrainlineError
from grainline.eval.likelihood import Likelihood


@dataclass(frozen=True)
class PartScore:
    """What some documents cost a model. `tokens` is 0 where the model has none."""

    part: str
    documents: int
    bytes: int
    tokens: int
    bits: float

    @property
    def bits_per_byte(self) -> float:
        """Of UTF-8: comparable between models of any tokenizer. 8 is no knowledge at all."""
        return self.bits / self.bytes

    def table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "part": self.part,
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bits_per_byte": self.bits_per_byte,
        }


@dataclass(frozen=True)
class Scores:
    """One model on one corpus."""

    parts: tuple[PartScore, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise GrainlineError("There is no text to score: there are no documents, or all are empty.")

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Likelihood]]) -> Scores:
        """From the likelihood of each document and the part it belongs to. Documents without text count for nothing."""
        sums: dict[str, PartScore] = {}
        for part, cost in rows:
            if cost.bytes:
                before = sums.get(part, PartScore(part, 0, 0, 0, 0.0))
                sums[part] = PartScore(
                    part,
                    before.documents + 1,
                    before.bytes + cost.bytes,
                    before.tokens + cost.tokens,
                    before.bits + cost.bits,
                )
        return cls(tuple(sums[part] for part in sorted(sums)))

    @property
    def total(self) -> PartScore:
        """All parts together, each byte weighing the same."""
        return PartScore(
            "total",
            sum(p.documents for p in self.parts),
            sum(p.bytes for p in self.parts),
            sum(p.tokens for p in self.parts),
            sum(p.bits for p in self.parts),
        )

    def table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"total": self.total.table(), "parts": [part.table() for part in self.parts]}
