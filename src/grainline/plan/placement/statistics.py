"""What a placement is decided by: how often each expert is chosen, and which experts follow one another.

Of ExFlow (arXiv 2401.08383) and MoETuner (arXiv 2502.06643, section 4), whose R and C these are: `flow` is from experts
of one layer to those of the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError
from grainline.documents.routing_trace import NONE, RoutingTrace

Floats = NDArray[np.float64]
FEW_TOKENS = 50  # per expert: below it, what is never chosen may only be unseen


@dataclass(frozen=True)
class Statistics:
    """load_LE: choices of each expert, per token. flow: [L − 1, E, E], from expert to next layer's expert, per token.

    A token with k experts in a layer and k' in the next adds 1/(k·k') for each pair, so that every step from layer to
    layer weighs 1 (as printed, MoETuner's counts let layers with more pairs weigh more). banks: which experts each
    layer chooses from; layers of one bank share them, and so their places.
    """

    load_LE: Floats
    flow_LEE: Floats
    banks: tuple[int, ...]
    tokens: int

    def __post_init__(self) -> None:
        layers, experts = self.load_LE.shape
        if self.flow_LEE.shape != (layers - 1, experts, experts) or len(self.banks) != layers:
            raise GrainlineError(
                f"loads of {layers} layers and {experts} experts go with flows [{layers - 1}, {experts}, {experts}] "
                f"and {layers} banks, not {list(self.flow_LEE.shape)} and {len(self.banks)}."
            )
        for name, values in (("loads", self.load_LE), ("flows", self.flow_LEE)):
            if not np.isfinite(values).all() or (values < 0).any():
                raise GrainlineError(f"{name} of experts must be finite numbers, none of them negative.")

    @classmethod
    def of(cls, trace: RoutingTrace) -> Statistics:
        """Of a trace; see the class."""
        layers, experts = len(trace.layers), trace.experts
        loads = np.stack([_counts(trace.expert_TLK[:, layer], experts) for layer in range(layers)])
        flows = (
            np.stack(
                [
                    _pairs(trace.expert_TLK[:, layer], trace.expert_TLK[:, layer + 1], experts)
                    for layer in range(layers - 1)
                ]
            )
            if layers > 1
            else np.zeros((0, experts, experts))
        )
        return cls(loads / trace.tokens, flows / trace.tokens, trace.banks, trace.tokens)

    @property
    def layers(self) -> int:
        """L."""
        return len(self.load_LE)

    @property
    def experts(self) -> int:
        """E, of a bank."""
        return self.load_LE.shape[1]

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The layers (by row here) of each bank."""
        return tuple(
            tuple(layer for layer, of in enumerate(self.banks) if of == bank) for bank in range(max(self.banks) + 1)
        )

    @property
    def thin(self) -> bool:
        """Whether experts had fewer than FEW_TOKENS tokens on average over the layers."""
        return self.tokens * float(self.load_LE.sum()) < FEW_TOKENS * self.load_LE.size

    @property
    def unseen(self) -> int:
        """Experts, over all layers, that no token chose: they are placed by their number alone."""
        return int((self.load_LE == 0).sum())

    def of_experts(self, experts: NDArray[np.intp]) -> Statistics:
        """Of some experts of each bank: [banks, n] → statistics over n experts. For placing in several stages."""
        rows = experts[list(self.banks)]
        load = np.take_along_axis(self.load_LE, rows, 1)
        flow = (
            np.stack([self.flow_LEE[layer][np.ix_(rows[layer], rows[layer + 1])] for layer in range(self.layers - 1)])
            if self.layers > 1
            else np.zeros((0, rows.shape[1], rows.shape[1]))
        )
        return Statistics(load, flow, self.banks, self.tokens)


def _counts(expert_TK: NDArray[np.int32], experts: int) -> Floats:
    return np.bincount(expert_TK[expert_TK != NONE], minlength=experts).astype(np.float64)


def _pairs(from_TK: NDArray[np.int32], to_TK: NDArray[np.int32], experts: int) -> Floats:
    has_TK, gets_TK = from_TK != NONE, to_TK != NONE
    weight_T = 1.0 / np.maximum(has_TK.sum(1) * gets_TK.sum(1), 1)
    found = np.zeros(experts * experts)
    for a in range(from_TK.shape[1]):
        for b in range(to_TK.shape[1]):
            both_T = has_TK[:, a] & gets_TK[:, b]
            place = from_TK[both_T, a].astype(np.int64) * experts + to_TK[both_T, b]
            found += np.bincount(place, weights=weight_T[both_T], minlength=experts * experts)
    return found.reshape(experts, experts)
