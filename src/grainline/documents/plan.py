"""Plan: the decision. How a recipe (or a model to be served) is laid out on a cluster. A person can edit it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from grainline.documents.base import Document, Part
from grainline.documents.expert_placement import ExpertPlacement


class Layout(Part):
    """How many ranks there are, and how they share the model.

    Two factorisations of the ranks of a pipeline rank's row: dense layers are split over tensor × context × data
    parallel ranks, experts over expert tensor × expert parallel ones and what is left (arXiv 2504.14960).
    """

    data_parallel: PositiveInt = Field(1, description="ranks that see different sequences")
    shard: Literal["none", "optimizer", "full"] = Field(
        "none",
        description="none: every rank holds all parameters; optimizer: each holds its share of the optimiser's state "
        "(ZeRO-1); full: FSDP, each holds its share of everything",
    )
    tensor_parallel: PositiveInt = Field(1, description="ranks that split each matrix of a layer")
    sequence_parallel: bool = Field(True, description="with tensor_parallel: split what lies between matrices as well")
    context_parallel: PositiveInt = Field(1, description="ranks that split each sequence")
    expert_parallel: PositiveInt = Field(1, description="ranks that a layer's experts are spread over")
    expert_tensor_parallel: PositiveInt = Field(1, description="ranks that split each expert's matrices")
    devices: tuple[str, ...] = Field(
        (),
        description="of each rank, NODE:0, NODE:1 …: tensor parallel ranks next to each other, then context, data and "
        "pipeline; default: in the cluster's order",
    )


class Pipeline(Part):
    """How the model is cut into stages, and in which order the ranks work on micro-batches."""

    ranks: PositiveInt = Field(description="pipeline ranks; times layout.data_parallel is how many processes there are")
    schedule: str = Field("1f1b", description="a name in grainline.schedule.SCHEDULES; partial, with paths")
    microbatches: PositiveInt | None = Field(None, description="in a step, per pipeline; default: 4 times the ranks")
    cut: Literal["auto", "equal"] | tuple[NonNegativeInt, ...] = Field(
        "auto", description="cells of each stage in order; auto: balanced by cost, equal: as many blocks in each"
    )
    chunks: PositiveInt | None = Field(
        None, description="stages per rank; default: as many as the cut has, else as the schedule usually has"
    )
    placement: tuple[NonNegativeInt, ...] | None = Field(
        None, description="the rank of each stage; default: the schedule's own"
    )
    recompute: Literal["never", "always", "except_last"] = Field(
        "never", description="keep a stage's input alone and run it again before the backward"
    )
    offload: bool = Field(False, description="kept activations wait in host memory for their backward")
    vocabulary: Literal["plain", "vocab1", "vocab2"] = Field(
        "plain", description="vocab1, vocab2: embedding and output layer split over all ranks (arXiv 2411.05288)"
    )
    paths: tuple[tuple[tuple[NonNegativeInt, NonNegativeInt], ...], ...] | None = Field(
        None, description="(stage, rank) hops of each micro-batch, for partial pipelines"
    )
    starts: tuple[tuple[NonNegativeFloat, ...], ...] | None = Field(
        None,
        description="with paths: planned seconds at which each forward of a micro-batch starts, then each backward "
        "from the last hop to the first; ranks keep to this order",
    )
    backwards: Literal["planned", "arrival"] = Field(
        "planned",
        description="arrival: rather than wait for a gradient a rank takes another that is here; see --timeline",
    )
    gradient_mean: Literal["visits", "all"] = Field(
        "visits",
        description="with paths: a stage's gradient is the mean over the micro-batches that visited it, or over all",
    )


class Execution(Part):
    """How one rank does its share of a step."""

    micro_batch_sequences: PositiveInt | None = Field(
        None, description="sequences in one forward pass; gradients add up over passes; default: by free memory"
    )
    recompute: Literal["none", "attention", "block"] = Field(
        "none", description="attention: its scores are computed again (arXiv 2205.05198); block: all but block inputs"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile; auto: on GPUs, when the run is long enough"
    )
    threads: PositiveInt | None = Field(None, description="CPU threads per rank; default: cores / ranks on the node")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class MadeFor(Part):
    """What a plan was made for, and what was expected of it: so that it can be simulated, compared and exported."""

    model: str = Field(description="a listed name, a config's file, a folder, or ORG/NAME")
    cluster: str = Field(description="a file, or shorthand")
    batch_tokens: PositiveInt
    sequence_length: PositiveInt
    dtype: str = "bfloat16"
    engine: str = "megatron"
    step_seconds: NonNegativeFloat | None = Field(None, description="expected …")
    low_seconds: NonNegativeFloat | None = Field(None, description="… and nine times in ten no less than this …")
    high_seconds: NonNegativeFloat | None = Field(None, description="… and no more than this")


class Plan(Document):
    """Layout and execution. Its keys are disjoint from a Recipe's."""

    kind: ClassVar[str] = "plan"

    layout: Layout = Layout()
    execution: Execution = Execution()
    pipeline: Pipeline | None = None
    placement: ExpertPlacement | None = None
    made_for: MadeFor | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What a runtime must be able to do to run this plan, in the field's words."""
        wanted = {
            "data parallelism": self.layout.data_parallel > 1,
            "pipeline parallelism": self.pipeline is not None,
            "FSDP": self.layout.shard == "full",
            "sharded optimizer": self.layout.shard == "optimizer",
            "tensor parallelism": self.layout.tensor_parallel > 1,
            "context parallelism": self.layout.context_parallel > 1,
            "expert parallelism": self.layout.expert_parallel > 1 or self.layout.expert_tensor_parallel > 1,
            "vocabulary parallelism": self.pipeline is not None and self.pipeline.vocabulary != "plain",
            "selective recomputation": self.execution.recompute == "attention",
            "activation recomputation": self.execution.recompute == "block"
            or (self.pipeline is not None and self.pipeline.recompute != "never"),
            "activation offloading": self.pipeline is not None and self.pipeline.offload,
            "expert placement": self.placement is not None,
            "torch.compile": self.execution.compile == "on",
        }
        return tuple(name for name, needed in wanted.items() if needed)
