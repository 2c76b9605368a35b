"""What a neural model of text is held against: an n-gram model and a compressor, given the same training bytes."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.eval.baselines.compare import ngram_scores, xz_scores
    from grainline.eval.baselines.ngram import NGram
    from grainline.eval.baselines.xz import xz_bits

__all__ = ["NGram", "ngram_scores", "xz_bits", "xz_scores"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"NGram": "ngram", "ngram_scores": "compare", "xz_bits": "xz", "xz_scores": "compare"},
)
