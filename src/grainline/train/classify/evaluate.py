"""How good a classifier is on texts it hasn't seen, and which expert answers what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from grainline.models.heads.encoders import Classifier
from grainline.train.classify.tokens import Tokens

AT_ONCE = 64
"""Texts in one pass."""


@dataclass(frozen=True)
class ClassScores:
    """Of the texts of one label, or of all."""

    label: str
    texts: int
    precision: float
    recall: float
    f1: float
    usage: tuple[float, ...]  # share of these texts that each expert answers
    gate: tuple[float, ...]  # mean probability of each


@dataclass(frozen=True)
class Scores:
    """Of held-out texts. A regression has `rmse` and `pearson` instead of accuracy, and one line for all texts."""

    texts: int
    experts: tuple[str, ...]
    classes: tuple[ClassScores, ...]
    usage: tuple[float, ...]
    information: float  # between label and expert, in nats: 0 where the gate doesn't look at what the label is about
    accuracy: float | None = None
    macro_f1: float | None = None
    rmse: float | None = None
    pearson: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """The inverse of `as_dict`, lists as tuples."""

        def tuples(table: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}

        classes = tuple(ClassScores(**tuples(each)) for each in values["classes"])
        return cls(**{**tuples(values), "classes": classes})

    def __str__(self) -> str:
        if self.accuracy is None or self.macro_f1 is None:
            return f"RMSE {self.rmse:.4f}, Pearson {self.pearson:.4f}"
        return f"accuracy {self.accuracy:.4f}, macro F1 {self.macro_f1:.4f}"


@torch.no_grad()
def answers(classifier: Classifier, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, C], gate [N, E] and chosen expert [N] of all texts, each answered by its own expert alone."""
    classifier.eval()
    found = [classifier(ids_BS, length_B) for ids_BS, length_B, _ in tokens.batches(AT_ONCE)]
    return tuple(  # type: ignore[return-value]
        torch.cat([getattr(each, part) for each in found]) for part in ("out_BC", "gate_BE", "expert_B")
    )


def evaluate(classifier: Classifier, tokens: Tokens, labels: Sequence[str]) -> Scores:
    """Score all texts; without labels it is a regression."""
    out_NC, gate_NE, expert_N = answers(classifier, tokens)
    experts = classifier.head.config.experts
    chosen_NE = torch.nn.functional.one_hot(expert_N, len(experts)).double()
    target_N = tokens.target_N
    places_N = target_N.long() if labels else torch.zeros(len(target_N), dtype=torch.long)
    said_N = out_NC.argmax(-1) if labels else places_N
    classes = []
    for place, label in enumerate(labels or ("all",)):
        mine_N = places_N == place
        hits = int((mine_N & (said_N == place)).sum())
        precision = hits / max(1, int((said_N == place).sum()))
        recall = hits / max(1, int(mine_N.sum()))
        classes.append(
            ClassScores(
                label=label,
                texts=int(mine_N.sum()),
                precision=precision,
                recall=recall,
                f1=2 * precision * recall / (precision + recall) if hits else 0.0,
                usage=_mean(chosen_NE[mine_N]),
                gate=_mean(gate_NE[mine_N]),
            )
        )
    information = mutual_information(torch.stack([chosen_NE[places_N == p].sum(0) for p in range(len(classes))]))
    common = (len(target_N), tuple(experts), tuple(classes), _mean(chosen_NE), information)
    if labels:
        accuracy = float((said_N == places_N).double().mean())
        return Scores(*common, accuracy=accuracy, macro_f1=sum(c.f1 for c in classes) / len(classes))
    found_N, target_N = out_NC[:, 0].double(), target_N.double()
    rmse = float((found_N - target_N).square().mean().sqrt())
    pearson = float(torch.corrcoef(torch.stack((found_N, target_N)))[0, 1])
    return Scores(*common, rmse=rmse, pearson=pearson if math.isfinite(pearson) else 0.0)


def mutual_information(count_LE: Tensor) -> float:
    """Between the two indices of a table of counts, in nats; ln 2 at most for two experts."""
    joint_LE = count_LE.double() / count_LE.sum()
    apart_LE = joint_LE.sum(1, keepdim=True) * joint_LE.sum(0, keepdim=True)
    return float(torch.where(joint_LE > 0, joint_LE * (joint_LE / apart_LE).log(), 0.0).sum())


def _mean(values_NE: Tensor) -> tuple[float, ...]:
    return tuple(values_NE.double().mean(0).tolist()) if len(values_NE) else (0.0,) * values_NE.shape[1]
