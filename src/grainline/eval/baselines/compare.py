"""The classical baselines on the same terms as a model: learn the training text, score the held-out text by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from grainline.eval.baselines.ngram import NGram
from grainline.eval.baselines.xz import xz_bits
from grainline.eval.likelihood import Likelihood
from grainline.eval.scores import PartScore, Scores

if TYPE_CHECKING:
    from grainline.data.readers import TextDocument


def ngram_scores(training: Iterable[str | bytes], held_out: Iterable[TextDocument], order: int = 5) -> Scores:
    """An n-gram model with contexts of up to `order` bytes; see `ngram.NGram`."""
    model = NGram.train(training, order)
    return Scores.of(
        (document.part, Likelihood(model.bits(document.text), len(document.text.encode("utf-8")), 0))
        for document in held_out
    )


def xz_scores(training: Iterable[str | bytes], held_out: Sequence[TextDocument]) -> Scores:
    """`xz -9`, primed with the training text; see `xz.xz_bits`. A part is compressed as one, so it has one cost."""
    parts: dict[str, list[bytes]] = defaultdict(list)
    for document in held_out:
        if document.text:
            parts[document.part].append(document.text.encode("utf-8"))
    bits = xz_bits(training, parts)
    return Scores(
        tuple(PartScore(part, len(parts[part]), sum(map(len, parts[part])), 0, bits[part]) for part in sorted(parts))
    )
