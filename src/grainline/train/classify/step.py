"""One step of a classifier's training: this rank's part of the loss, and what it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grainline.documents.classification import Head
from grainline.models.heads.encoders import Classifier
from grainline.models.heads.mixture import gate_terms
from grainline.parallel import Ranks, sum_gradients


@dataclass(frozen=True)
class StepSums:
    """Of a batch over all ranks: task loss per text, the gate's terms, and each expert's share of the texts."""

    loss: float
    entropy: float
    diversity: float
    usage: tuple[float, ...]


def gradients(
    classifier: Classifier, head: Head, batch: tuple[Tensor, Tensor, Tensor], total: int, ranks: Ranks, regression: bool
) -> StepSums:
    """Forward and backward over this rank's texts of a batch of `total`; parameters then have the batch's gradients.

    L = task + λₑ · mean H(p) + λ_d · Σᵢ (p̄ᵢ − 1/E)². An expert that got no text has a gradient of zeros, so that ranks
    can sum.
    """
    ids_BS, length_B, target_B = batch
    classifier.train()
    answer = classifier(ids_BS, length_B)
    if regression:
        task = (answer.out_BC[:, 0] - target_B).square().sum() / total
    else:
        task = torch.nn.functional.cross_entropy(answer.out_BC, target_B.long(), reduction="sum") / total
    terms = gate_terms(answer.gate_BE, total, ranks.sum_)
    (task + head.entropy * terms.entropy + head.diversity * terms.diversity).backward()
    learning = [p for p in classifier.parameters() if p.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sum_gradients(learning, ranks)
    count_E = torch.bincount(answer.expert_B, minlength=answer.gate_BE.shape[1]).double()
    sums = ranks.sum_(torch.cat((torch.stack((task, terms.entropy)).detach().double(), count_E)))
    return StepSums(
        loss=float(sums[0]),
        entropy=float(sums[1]),
        diversity=terms.diversity.item(),
        usage=tuple((sums[2:] / total).tolist()),
    )
