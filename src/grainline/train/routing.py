"""The routing of a run's model on the text that was held out of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grainline.data.packed import validation_documents
from grainline.train.corpus import PACKED
from grainline.train.result import TrainResult

if TYPE_CHECKING:
    from grainline.documents.routing_trace import RoutingTrace

TOKENS = 5000
"""As many as ExFlow's published solver takes at a time; one to three thousand sufficed (arXiv 2401.08383)."""


def routing_of_run(result: TrainResult, data: str | Path | None = None, tokens: int = TOKENS) -> RoutingTrace:
    """Of the first tokens of held-out documents; data: the folder of packed text, where it isn't the run's own."""
    from grainline.models.loading import load
    from grainline.models.trace import trace_of_texts

    model, tokenizer = load(result.model, dtype="float32")
    folder = result.out / "data" if data is None else Path(data)
    texts = (document.text for document in validation_documents(folder / PACKED))
    return trace_of_texts(model, tokenizer, texts, tokens)
