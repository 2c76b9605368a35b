"""Actions: what a rank does, one after another, in a step of pipelined training.

A rank executes its list in order. Compute is synchronous; messages and collectives are started at their place in the
list and go on beside it, and whatever needs their result waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an action does, in the field's words."""

    F = "F"  # forward
    B = "B"  # backward, both gradients
    I = "I"  # noqa: E741  backward, gradient of the input; queues the weights' (zero-bubble's B)
    W = "W"  # backward, gradients of the weights that I has queued
    R = "R"  # forward again, from the kept input, before the backward
    OFFLOAD = "OFFLOAD"  # kept activations to host memory
    FETCH = "FETCH"  # and back
    SEND_F = "SEND_F"  # the stage's output to the stage that is next for this micro-batch
    RECV_F = "RECV_F"
    SEND_B = "SEND_B"  # the gradient of the stage's input to the stage that was before
    RECV_B = "RECV_B"
    S = "S"  # vocabulary passes (arXiv 2411.05288): logits and local softmax of this rank's share of the vocabulary
    T = "T"  # gradients that are left of the output layer
    EMBED = "EMBED"  # this rank's rows of the input embedding
    EMBED_GRAD = "EMBED_GRAD"
    C_EMBED = "C_EMBED"  # collective: sum of the looked-up rows, to the first stage
    C_EMBED_GRAD = "C_EMBED_GRAD"  # collective: the gradient of the embeddings, from the first stage to all
    C0 = "C0"  # collective: the last stage's output, to all
    C1 = "C1"  # collective: softmax statistics (and the gradient of the hidden states, in Algorithm 2)
    C2 = "C2"  # collective: sum of the gradient of the hidden states (Algorithm 1)
    REDUCE = "REDUCE"  # collective: gradients of a stage over all that hold it or are tied to it
    UPDATE = "UPDATE"  # the optimiser's step
    DISPATCH = "DISPATCH"  # tiles of one MoE layer, see `overlap`: rows come in over the link
    UP = "UP"  # a tile of the experts' first product
    JOIN = "JOIN"  # the host starts what comes next
    DOWN = "DOWN"  # a tile of the experts' second product
    RETURN = "RETURN"  # results go back over the link
    COMBINE = "COMBINE"  # a tile of results, added to their tokens


TILE_WORK = frozenset({Kind.DISPATCH, Kind.UP, Kind.JOIN, Kind.DOWN, Kind.RETURN, Kind.COMBINE})
"""Occupies a worker, the link or the host: the rows of a layer's timeline."""
COMPUTE = TILE_WORK | {
    Kind.F,
    Kind.B,
    Kind.I,
    Kind.W,
    Kind.R,
    Kind.S,
    Kind.T,
    Kind.EMBED,
    Kind.EMBED_GRAD,
    Kind.UPDATE,
}
"""Occupies the rank."""
COLLECTIVES = frozenset({Kind.C_EMBED, Kind.C_EMBED_GRAD, Kind.C0, Kind.C1, Kind.C2, Kind.REDUCE})
"""Runs on a second stream of all ranks that take part, which all must have in the same order."""
SENDS = frozenset({Kind.SEND_F, Kind.SEND_B})
RECEIVES = frozenset({Kind.RECV_F, Kind.RECV_B})
COPIES = frozenset({Kind.OFFLOAD, Kind.FETCH})
"""Run on the rank's copy engine."""


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One entry of a rank's list. `stage` and `microbatch` are −1 where they mean nothing.

    `peer` and `peer_stage` are the other end of a message: the rank, and its stage.
    """

    kind: Kind
    stage: int = -1
    microbatch: int = -1
    peer: int = -1
    peer_stage: int = -1

    def __str__(self) -> str:
        name = self.kind.value
        if self.stage >= 0:
            name += str(self.stage)
        if self.microbatch >= 0:
            name += f".{self.microbatch}"
        if self.peer >= 0:
            name += f"{'→' if self.kind in SENDS else '←'}{self.peer}"
        return name
