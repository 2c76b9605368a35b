"""What came of a run: the figures and folders that `train` returns, kept in result.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grainline.documents import write_atomically


@dataclass(frozen=True)
class TrainResult:
    """Losses are cross-entropy in nats per token; paths are Hugging Face folders."""

    out: Path
    model: Path  # the trained model; wsm: the merged one
    last_model: Path | None  # wsm: the last step's model, not merged
    best_model: Path | None  # the model with the lowest validation loss, where that wasn't the last step's
    steps: int
    tokens: int
    seconds: float  # of training, validation and saving, over all interruptions
    loss: float | None  # of the last step
    validation_loss: float  # of `model`
    validation_bits_per_byte: float
    last_validation_loss: float  # of the last step's weights: differs from `validation_loss` where a merge is made
    best_step: int
    best_validation_loss: float
    parameters: int
    active_parameters: int
    resumed_from: int | None = None  # the step of the checkpoint that this call went on from

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def save(self, path: Path) -> None:
        """Write JSON beside the models; their paths are relative to it, so that the folder can be moved."""
        names = {key: None if getattr(self, key) is None else getattr(self, key).name for key in MODELS}
        values = {key: value for key, value in self.as_dict().items() if key not in ("out", "resumed_from")}
        write_atomically(path, json.dumps(values | names, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> TrainResult | None:
        """Read what `save` wrote; None if there is nothing of the kind."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            models = {key: None if values[key] is None else path.parent / values[key] for key in MODELS}
            return cls(out=path.parent, **(values | models))
        except (OSError, ValueError, KeyError, TypeError):
            return None


MODELS = ("model", "last_model", "best_model")
