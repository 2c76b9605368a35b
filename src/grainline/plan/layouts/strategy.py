"""Strategy: one way of spreading a model's training over ranks. What a search chooses among, and a Plan records.

Two factorisations of one array of ranks, which share the pipeline dimension alone (arXiv 2504.14960): dense layers are
split over tensor × context × data, experts over expert tensor × expert × what is left. Ranks count up along tensor
first, then context, data, and last along the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shard = Literal["none", "optimizer", "full"]
Recompute = Literal["none", "attention", "full"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """Sizes of the groups and what goes on in them."""

    tensor: int = 1  # matrices of a layer are split so many ways
    context: int = 1  # so are sequences
    data: int = 1  # ranks that see different sequences
    pipeline: int = 1
    expert: int = 1  # ranks among which the experts of a layer are spread
    expert_tensor: int = 1  # and each expert's matrices split
    sequences: int = 1  # of a micro-batch
    chunks: int = 1  # stages of each pipeline rank
    schedule: str = "1f1b"
    recompute: Recompute = "none"
    shard: Shard = "none"  # of the state, over the data-parallel ranks
    sequence_parallel: bool = True  # where tensor > 1: what lies between its matrices is split along the sequence

    @property
    def width(self) -> int:
        """Ranks of one pipeline rank's row: tensor × context × data."""
        return self.tensor * self.context * self.data

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.width * self.pipeline

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same experts."""
        return self.width // (self.expert * self.expert_tensor)

    @property
    def splits_sequence(self) -> int:
        """Parts of a sequence between a layer's matrices."""
        return self.context * (self.tensor if self.sequence_parallel else 1)

    def microbatches(self, batch_sequences: int) -> int:
        """Of each pipeline, in a step."""
        return batch_sequences // (self.data * self.sequences)

    def __str__(self) -> str:
        """For people: "t8 p4×2 d16 e8 b1 1f1b", what is 1 left out."""
        sizes = {"t": self.tensor, "c": self.context, "p": self.pipeline, "d": self.data, "e": self.expert}
        said = [f"{letter}{size}" for letter, size in sizes.items() if size > 1]
        if self.chunks > 1:
            said = [f"{word}×{self.chunks}" if word.startswith("p") else word for word in said]
        if self.expert_tensor > 1:
            said.append(f"et{self.expert_tensor}")
        said.append(f"b{self.sequences}")
        if self.pipeline > 1:
            said.append(self.schedule)
        said += {"none": [], "optimizer": ["ZeRO-1"], "full": ["FSDP"]}[self.shard]
        said += {"none": [], "attention": ["recompute attention"], "full": ["recompute"]}[self.recompute]
        return " ".join(said)
