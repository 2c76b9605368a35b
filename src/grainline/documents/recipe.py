"""Recipe: what is wanted. Model, data, steps, optimiser, losses, precision. Where it runs is a Plan's matter."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from grainline.documents.base import Document, Part
from grainline.documents.model_config import ModelConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


class ModelChoice(Part):
    """Which model is trained: exactly one of depth, config, config_file and pretrained."""

    depth: PositiveInt | None = Field(None, description="one dial: a Ling-2.0-style model of this many layers")
    config: ModelConfig | None = Field(None, description="a model config, trained from scratch")
    config_file: str | None = Field(None, description="the same, in a file of its own")
    pretrained: str | None = Field(None, description="a folder or hub id whose weights (and tokenizer) are trained on")
    reuse: int | None = Field(
        None, ge=2, description="pretrained: so many adjacent sparse layers share their experts from now on (ReXMoE)"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        those = [key for key in type(self).model_fields if key != "reuse"]
        given = [key for key in those if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"set exactly one of {', '.join(those)}{f'; found {given}' if given else ''}")
        if self.reuse is not None and self.pretrained is None:
            raise ValueError("reuse goes with pretrained; a model from scratch says it in its own config, moe.reuse")
        return self


class Data(Part):
    """What is read, and how it is cut into sequences."""

    text: tuple[str, ...] = Field(
        ("builtin",), description="files, folders, globs of .txt .md .jsonl[.gz|.zst] .parquet; or 'builtin'"
    )
    tokenizer: str | None = Field(
        None,
        description="a tokenizer.json or its folder; default: the pretrained model's, or one trained on the text",
    )
    vocab_size: PositiveInt = Field(4096, ge=300, description="of the tokenizer that is trained, if one is")
    sequence_length: PositiveInt = Field(256, ge=8, description="S, tokens that a sequence predicts")
    validation_fraction: float = Field(0.02, gt=0, lt=1, description="of documents, chosen by the hash of their text")
    document_attention: bool = Field(False, description="tokens see only their own document")
    max_bytes: PositiveInt | None = Field(
        None, description="read no more text than so many bytes, of each source alike"
    )


class Training(Part):
    """How much is learned from how much."""

    steps: PositiveInt
    batch_tokens: PositiveInt = Field(description="tokens per optimiser step over all ranks")


class Optimizer(Part):
    """AdamW for everything, or Muon for matrices with AdamW for the rest (embeddings, head, router, gains).

    Muon: Jordan et al. 2024; weight decay and the RMS matching that lets it share AdamW's rate: Liu et al. 2025
    (arXiv 2502.16982), section 2.2.
    """

    kind: Literal["muon", "adamw"] = "muon"
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_norm: float = Field(1.0, gt=0, description="of the gradient of all parameters together")
    table_rate: float = Field(
        1.0, gt=0, description="muon: rate of embeddings, head and router, as a multiple of the matrices'"
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's, with Nesterov's look ahead")
    newton_schulz_steps: PositiveInt = Field(5, description="Muon's iterations towards the orthogonal factor")


class LearningRate(Part):
    """The learning rate's course over the steps.

    wsd: warm up, stay, decay to `final` over the last `decay_fraction`. wsm: warm up, stay to the end, and average the
    checkpoints of the last `decay_fraction` instead of decaying (arXiv 2507.17634).
    """

    schedule: Literal["wsd", "wsm", "cosine", "constant"] = "wsd"
    peak: float = Field(gt=0)
    warmup_steps: NonNegativeInt = 0
    decay_fraction: float = Field(0.3, gt=0, le=1, description="wsd, wsm: share of the steps that decays or is merged")
    decay_shape: Literal["linear", "sqrt", "cosine"] = Field(
        "linear", description="wsd: the decay's curve; wsm: the curve that the merge weights stand for"
    )
    final: float = Field(0.0, ge=0, lt=1, description="share of the peak that is left at the end")
    merge_checkpoints: PositiveInt = Field(12, description="wsm: checkpoints averaged, evenly over the window")


class Loss(Part):
    """Cross-entropy, and what is added to it."""

    z_loss: float = Field(0.0, ge=0, description="router z-loss coefficient")
    balance_loss: float = Field(0.0, ge=0, description="auxiliary load-balancing loss coefficient")
    mtp_weight: float = Field(0.1, ge=0, description="weight of the multi-token prediction loss")
    mtp_every: PositiveInt = Field(
        1,
        description="MTP learns from one sequence in so many: its pass through the head costs small models much",
    )
    bias_rate: float = Field(1e-3, ge=0, description="step of the router's selection bias, once per optimiser step")


class Opening(Part):
    """Which experts routers may choose among in training: progressive scaling routing (ReXMoE, arXiv 2510.17483).

    From `open_from` on the number of open experts grows, from a layer's own to all of its pool at `open_until`; which
    ones are open is drawn anew for each step. Validation and generation always choose among all.
    """

    opening: Literal["none", "linear", "stepwise"] = Field(
        "none", description="how the number of open experts grows; stepwise: by a layer's own number at a time"
    )
    open_from: float = Field(0.21, ge=0, le=1, description="share of the steps after which it begins to grow …")
    open_until: float = Field(0.63, ge=0, le=1, description="… and at which all are open")
    open_share: float | None = Field(
        None, gt=0, le=1, description="of the pool that is open at first; default: as many as a layer has of its own"
    )
    draw: Literal["layer", "local-first", "token"] = Field(
        "layer", description="one draw per layer and step; local-first: a layer's own are open; token: one per position"
    )
    closed: Literal["score", "logit"] = Field(
        "score", description="closed experts' scores are set to 0 and the others' stay; or their logits to −∞ before"
    )
    load: Literal["layer", "bank"] = Field(
        "layer", description="what selection biases follow: a layer's choices, or those of all that share its experts"
    )

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.open_until < self.open_from:
            raise ValueError(f"open_until {self.open_until} must not come before open_from {self.open_from}")
        return self


class Precision(Part):
    """Numbers used in matrix products; parameters and optimiser state are float32."""

    compute: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")


class Validation(Part):
    """How often held-out text is looked at during training."""

    every: PositiveInt = Field(100, description="steps")
    max_sequences: PositiveInt = Field(64, description="validation sequences scored each time")


class Checkpoint(Part):
    """How often the run is saved, and how many saves are kept beside the best one."""

    every: PositiveInt = Field(200, description="steps")
    keep: PositiveInt = 2


class Guard(Part):
    """When to stop rather than go on learning from something broken; the batch is saved for inspection."""

    spike_factor: float = Field(3.0, gt=1, description="stop when the loss exceeds so many times its running median …")
    spike_patience: PositiveInt = Field(20, description="… for so many steps on end; NaN or infinity stops at once")


class Logging(Part):
    """metrics.jsonl is always written."""

    every: PositiveInt = Field(1, description="steps between lines")
    tensorboard: bool = False


class Recipe(Document):
    """A training run, wherever it runs."""

    kind: ClassVar[str] = "recipe"
    model_config = Document.model_config | {"protected_namespaces": ()}

    name: str = "run"
    seed: NonNegativeInt = 0
    model: ModelChoice
    data: Data = Data()
    training: Training
    optimizer: Optimizer = Optimizer()
    learning_rate: LearningRate
    loss: Loss = Loss()
    routing: Opening = Opening()
    precision: Precision = Precision()
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    guard: Guard = Guard()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        batch, length = self.training.batch_tokens, self.data.sequence_length
        if batch % length:
            raise ValueError(f"training.batch_tokens {batch} must be a multiple of data.sequence_length {length}")
        if self.learning_rate.warmup_steps >= self.training.steps:
            raise ValueError(
                f"learning_rate.warmup_steps {self.learning_rate.warmup_steps} must be fewer than "
                f"training.steps {self.training.steps}"
            )
        return self

    @property
    def batch_sequences(self) -> int:
        """Sequences per optimiser step over all ranks."""
        return self.training.batch_tokens // self.data.sequence_length
