"""Bits per byte of a model on documents: the loss in a unit that no tokenizer can flatter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from grainline.eval.likelihood import Likelihood, Query, Scorer
from grainline.eval.model_scorer import ModelScorer
from grainline.eval.scores import Scores

if TYPE_CHECKING:
    from grainline.data.readers import TextDocument
    from grainline.data.tokenizer import Tokenizer
    from grainline.models.model import Model

GROUP_BYTES = 1 << 20  # text handed to the scorer at once: enough to batch documents of like length


def bits_per_byte(
    model: Model,
    tokenizer: Tokenizer,
    documents: Iterable[TextDocument],
    *,
    window: int | None = None,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score documents by part: −log2 P(document) / its UTF-8 bytes.

    Every document starts at the separator token and knows nothing of the others. One longer than `window` tokens
    (default: all positions of the model) is scored in windows that move on by half, so that each token is predicted
    once, from at least window / 2 tokens or all there are. `progress` is told how many more documents are done.
    """
    return score_documents(ModelScorer(model, tokenizer, window=window, batch_tokens=batch_tokens), documents, progress)


def score_documents(
    scorer: Scorer, documents: Iterable[TextDocument], progress: Callable[[int], None] | None = None
) -> Scores:
    """The same with any scorer, an endpoint among them."""

    def rows() -> Iterator[tuple[str, Likelihood]]:
        for group in _groups(documents):
            answers = scorer.score([Query(document.text) for document in group], progress)
            yield from zip((document.part for document in group), answers, strict=True)

    return Scores.of(rows())


def _groups(documents: Iterable[TextDocument]) -> Iterator[list[TextDocument]]:
    group: list[TextDocument] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
