"""What all exports are given and return."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig, Plan

Flag = tuple[str, ...]
"""A flag and its values; without values it is a switch."""


@dataclass(frozen=True)
class Run:
    """What is to be run."""

    plan: Plan
    config: ModelConfig
    model: str  # as the person named it
    batch_sequences: int
    length: int

    @property
    def ranks(self) -> int:
        """Processes in all."""
        layout, pipeline = self.plan.layout, self.plan.pipeline
        row = layout.tensor_parallel * layout.context_parallel * layout.data_parallel
        return row * (1 if pipeline is None else pipeline.ranks)

    @property
    def micro_batch_sequences(self) -> int:
        """Of one pass. Raises GrainlineError where the plan leaves it open or it doesn't divide."""
        pipeline = self.plan.pipeline
        share, rest = divmod(self.batch_sequences, self.plan.layout.data_parallel)
        if rest:
            raise GrainlineError(
                f"layout.data_parallel {self.plan.layout.data_parallel} doesn't divide the batch of "
                f"{self.batch_sequences} sequences: change the plan or --batch-tokens."
            )
        micro = self.plan.execution.micro_batch_sequences
        if pipeline is not None and pipeline.microbatches is not None:
            micro, rest = divmod(share, pipeline.microbatches)
            if rest or not micro:
                raise GrainlineError(
                    f"pipeline.microbatches {pipeline.microbatches} doesn't divide the {share} sequences of a replica: "
                    "change the plan or --batch-tokens."
                )
        return micro or 1

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes in the order of ranks, where the plan names devices."""
        return tuple(dict.fromkeys(device.rpartition(":")[0] for device in self.plan.layout.devices))

    def refuse(self, engine: str, *features: str) -> None:
        """Raise GrainlineError for features of the plan that an engine doesn't have."""
        asked = [feature for feature in self.plan.features if feature in features]
        if asked:
            raise GrainlineError(
                f"The plan asks for {', '.join(asked)}, which {engine} doesn't have: plan again with --engine {engine}."
            )


@dataclass(frozen=True)
class Exported:
    """A command, and what it can't say."""

    program: str
    flags: tuple[Flag, ...]
    remarks: tuple[str, ...] = ()

    def script(self) -> str:
        """A shell script that a person completes with data and paths."""
        lines = [f"# {remark}" for remark in self.remarks]
        words = [self.program, *(shlex.join(flag) for flag in self.flags), '"$@"']
        return "#!/bin/sh\n" + "".join(f"{line}\n" for line in lines) + " \\\n    ".join(words) + "\n"


def launcher(run: Run) -> str:
    """torchrun for the plan's processes; eight to a node unless the plan names devices."""
    per_node = run.ranks
    if run.plan.layout.devices:
        counts = dict.fromkeys(run.nodes, 0)
        for device in run.plan.layout.devices:
            counts[device.rpartition(":")[0]] += 1
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{node} {count}" for node, count in counts.items())
            raise GrainlineError(
                f"The plan's nodes hold unlike numbers of ranks ({listed}), and torchrun starts as many on each. "
                "Leave nodes out (grainline plan train --without), or start the processes by hand."
            )
        per_node = next(iter(counts.values()))
    elif run.ranks > 8:
        if run.ranks % 8:
            raise GrainlineError(f"The plan has {run.ranks} ranks and names no devices: give it layout.devices.")
        per_node = 8
    nodes = run.ranks // per_node
    rest = ' --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR"' if nodes > 1 else ""
    return f"torchrun --nnodes {nodes} --nproc-per-node {per_node}{rest}"


def order_remarks(run: Run) -> tuple[str, ...]:
    """Which node is which NODE_RANK."""
    nodes: Sequence[str] = run.nodes
    if len(nodes) < 2:
        return ()
    return ("NODE_RANK: " + ", ".join(f"{i} is {node}" for i, node in enumerate(nodes)),)
