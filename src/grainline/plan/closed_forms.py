"""Megatron-LM's analytic model: bubbles, traffic, sizes, FLOPs and days in closed form (arXiv 2104.04473).

It is the first rung of the ladder of estimates: the simulator is checked against it, and says what it leaves out. Its
letters: p, t, d pipeline, tensor and data parallel sizes; n GPUs; B sequences in a batch, b in a micro-batch; s their
length; h hidden size; l layers; V vocabulary; v stages per rank. Traffic is in elements; times their bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpt:
    """The paper's model: GPT with learned positions, attention as wide as the model, and an FFN of 4·h."""

    layers: int
    hidden: int
    vocabulary: int = 51_200
    length: int = 2_048

    @property
    def parameters(self) -> int:
        """12·l·h²·(1 + 13/(12·h) + (V + s)/(12·l·h)), equation 2; the last norm is not in it."""
        return 12 * self.layers * self.hidden**2 + 13 * self.layers * self.hidden + self._tables

    @property
    def _tables(self) -> int:
        return (self.vocabulary + self.length) * self.hidden

    def layer_flops(self, sequences: float) -> float:
        """Forward FLOPs of one layer, no tensor parallelism: 24·B·s·h²·(1 + s/(6·h)) (appendix)."""
        return 24 * sequences * self.length * self.hidden**2 * (1 + self.length / (6 * self.hidden))

    def logit_flops(self, sequences: float) -> float:
        """Forward FLOPs of the output layer."""
        return 2 * sequences * self.length * self.hidden * self.vocabulary

    def flops(self, sequences: float, *, recompute: bool = True) -> float:
        """Of a batch, forward and backward: 96·B·s·l·h²·(1 + s/(6·h) + V/(16·l·h)), equation 3.

        Without recomputation 72 stands for 96, and the logits, which are not computed again, weigh a third more in it.
        """
        return (4 if recompute else 3) * self.layers * self.layer_flops(sequences) + 3 * self.logit_flops(sequences)


def bubble_overhead(ranks: int, microbatches: int, chunks: int = 1) -> float:
    """Idle time over ideal time, (p − 1)/(m·v) (section 2.2); GPipe's and 1F1B's with one chunk."""
    return (ranks - 1) / (microbatches * chunks)


def bubble_of_split(gpus: int, tensor: int, data: int, microbatches: int) -> float:
    """The overhead of a batch of `microbatches` in all, if n GPUs are split d × t × rest: (n − d·t)/(t·b') (3.3.1)."""
    return (gpus - data * tensor) / (tensor * microbatches)


def in_flight_stages(ranks: int, chunks: int = 1, rank: int = 0) -> float:
    """Activations that a rank holds at most, in full stages, given enough micro-batches (2.2).

    p − r in 1F1B, (2(p − r − 1) + (v − 1)·p + 1)/v interleaved.
    """
    if chunks == 1:
        return float(ranks - rank)
    return (2 * (ranks - rank - 1) + (chunks - 1) * ranks + 1) / chunks


def pipeline_elements(sequences: int, length: int, hidden: int, *, tensor: int = 1, chunks: int = 1) -> float:
    """Sent forward by a rank for a micro-batch over a link: b·s·h for each chunk, over t with scatter/gather (4.1)."""
    return sequences * length * hidden * chunks / tensor


def tensor_elements(
    sequences: int, length: int, hidden: int, tensor: int, layers: int, *, recompute: bool = False
) -> float:
    """Of each GPU for a micro-batch in a stage of so many layers, both passes: l·8·b·s·h·(t − 1)/t (3.2).

    Computing the forward again makes it half as much more.
    """
    whole = 8 * sequences * length * hidden * (tensor - 1) / tensor
    return layers * whole * (1.5 if recompute else 1.0)


def data_elements(parameters: float, pipeline: int, tensor: int, data: int) -> float:
    """Of each GPU for a batch: a ring's sum of its gradients, 2·P/(p·t)·(d − 1)/d (3.3.2)."""
    return 2 * parameters / (pipeline * tensor) * (data - 1) / data


def batch_seconds(batch: int, sequences: int, ranks: int, forward: float, backward: float, *, data: int = 1) -> float:
    """(B/(d·b) + p − 1)·(t_f(b) + t_b(b)), equation 1: `forward` and `backward` are seconds of a stage at this b."""
    return (batch / (data * sequences) + ranks - 1) * (forward + backward)


def training_seconds(tokens: float, parameters: float, gpus: int, flops_per_second: float) -> float:
    """8·T·P/(n·X), equation 4, with the achieved FLOP/s of each GPU; for models far wider than s and V/l."""
    return 8 * tokens * parameters / (gpus * flops_per_second)


def checkpoints(layers: int, input_size: float, inner_size: float) -> float:
    """The number c that makes c·A_input + (l/c)·A_intermediate least: √(l·A_intermediate/A_input) (3.5)."""
    return math.sqrt(layers * inner_size / input_size)


def checkpointed_size(count: float, layers: int, input_size: float, inner_size: float) -> float:
    """c·A_input + (l/c)·A_intermediate of a stage (3.5)."""
    return count * input_size + layers / count * inner_size
