"""ClassificationRecipe: an encoder and a head that learn a label, or a number, for each text."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from grainline.documents.base import Document, Part
from grainline.documents.recipe import LearningRate, Optimizer

ExpertKind = Literal["ffn", "gru", "ffn-mean"]


class Labelled(Part):
    """What is read."""

    text: tuple[str, ...] = Field(
        ("builtin",), description=".jsonl, .csv and .tsv files with a text and a label; or 'builtin'"
    )
    text_key: str = "text"
    label_key: str = Field("label", description="of builtin passages: 'work' (the default there) or 'language'")
    languages: tuple[str, ...] = Field((), description="of builtin passages; default: all")
    tokenizer: str | None = Field(
        None, description="a tokenizer.json or its folder; default: the encoder's, or one trained on the text"
    )
    vocab_size: PositiveInt = Field(2048, ge=300, description="of the tokenizer that is trained, if one is")
    max_tokens: PositiveInt = Field(64, description="of a text; what is beyond is cut off")
    max_examples: PositiveInt | None = Field(None, description="take so many at most, a fair sample")
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="of texts (builtin: of whole documents)")


class Encoder(Part):
    """What turns tokens into states: one of our decoders, from scratch or pretrained."""

    depth: PositiveInt | None = Field(None, description="a new dense decoder of this depth, on the dial")
    pretrained: str | None = Field(None, description="a model folder or hub id")
    frozen: bool = Field(False, description="the encoder doesn't learn")
    pooled: Literal["last", "mean"] = Field(
        "last", description="the view of the whole text: the last token's state, which has seen all, or the mean"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.depth is None) == (self.pretrained is None):
            raise ValueError("set exactly one of depth, pretrained")
        if self.frozen and self.pretrained is None:
            raise ValueError("frozen needs pretrained: a new encoder knows nothing yet")
        return self


class Head(Part):
    """A gate and experts of unlike kinds, of which each text is answered by one (Hecto, arXiv 2506.22919)."""

    experts: tuple[ExpertKind, ...] = Field(
        ("ffn", "gru"), description="ffn and the gate see the pooled view, gru all states in order, ffn-mean their mean"
    )
    proj: PositiveInt = Field(256, description="width of both views as gate and experts see them")
    hidden: PositiveInt | tuple[PositiveInt, ...] = Field(
        128, description="of every expert, or of each: ('ffn', 'gru') of 570 and 128 have about the same parameters"
    )
    temperature: float = Field(1.5, gt=0, description="τ of the gate's softmax")
    gradient: Literal["straight-through", "scaled"] = Field(
        "straight-through",
        description="all experts are run in training and the gate learns as if they were mixed; or only the chosen "
        "one is, its output times its probability",
    )
    entropy: float = Field(0.01, ge=0, description="weight of the gate's entropy: each text decided")
    diversity: float = Field(0.1, ge=0, description="weight of Σ (mean probability − 1/E)²: the batch spread")

    @model_validator(mode="after")
    def _experts_are_whole(self) -> Self:
        if not self.experts:
            raise ValueError("experts must name at least one")
        if isinstance(self.hidden, tuple) and len(self.hidden) != len(self.experts):
            raise ValueError(f"hidden has {len(self.hidden)} widths for {len(self.experts)} experts")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden width of each expert."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden,) * len(self.experts)


class Epochs(Part):
    """How much is learned from how much."""

    epochs: PositiveInt = 5
    batch: PositiveInt = Field(16, description="texts per optimiser step, over all ranks")


class Saving(Part):
    """How often the run is saved."""

    every: PositiveInt = Field(200, description="steps")


class ClassificationRecipe(Document):
    """A classifier (or a regression) and what it learns from."""

    kind: ClassVar[str] = "classification recipe"

    name: str = "classifier"
    seed: NonNegativeInt = 0
    task: Literal["classification", "regression"] = "classification"
    data: Labelled = Labelled()
    encoder: Encoder
    head: Head = Head()
    training: Epochs = Epochs()
    optimizer: Optimizer = Optimizer(kind="adamw", betas=(0.9, 0.999), weight_decay=0.01)
    learning_rate: LearningRate
    checkpoint: Saving = Saving()

    @model_validator(mode="after")
    def _rate_is_a_course(self) -> Self:
        if self.learning_rate.schedule == "wsm":
            raise ValueError("learning_rate.schedule 'wsm' merges checkpoints, which classifiers don't: take 'wsd'")
        return self
