"""What a run has come to: tensors by name for the checkpoint, and the scalars beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from grainline.train.optim import Optimizer

MODEL, OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, in nats per token, and when."""

    step: int
    loss: float


@dataclass
class TrainingState:
    """Scalars of a run; all of them are in the checkpoint's state.json."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in steps, validation and saving, over all interruptions
    loss: float | None = None  # of the last step, nats per token
    validation_loss: float | None = None
    best: Best | None = None
    idle_steps: list[list[int]] | None = None  # of each layer's experts; see `moe.idle`

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainingState:
        """The inverse of `as_json`."""
        best = values["best"]
        return cls(**{**values, "best": None if best is None else Best(**best)})


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live parameters and buffers under their checkpoint names."""
    return {MODEL + name: tensor for name, tensor in model.state_dict().items()}


def all_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a run needs to go on: the model's and the optimiser's live tensors."""
    return model_tensors(model) | {OPTIMIZER + name: tensor for name, tensor in optimizer.tensors().items()}
