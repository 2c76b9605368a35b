"""An n-gram model over bytes: the classical baseline that a neural model of text has to beat.

Interpolated modified Kneser–Ney smoothing (Chen and Goodman 1998, section 3): the longest context uses raw counts,
every shorter one counts in how many different longer contexts a byte was seen, and each order takes its three discounts
from its own counts of counts.

A gram, context and next byte together, is one unsigned 64-bit number with the oldest byte on top. Sorting grams
therefore groups them by context, dropping the oldest byte is a mask, and all counting is sorting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from grainline.documents import GrainlineError

LONGEST = 7  # context bytes: with the byte that they predict, eight make one 64-bit number
CHUNK_BYTES = 1 << 22  # of text sorted at a time, so that memory follows the distinct grams and not the text


@dataclass(frozen=True)
class Order:
    """What is known after contexts of one length: distinct grams and contexts, both sorted, with their shares."""

    grams: np.ndarray  # uint64 [G]: context · 256 + next byte
    seen: np.ndarray  # float64 [G]: discounted count of the gram / total count of its context
    contexts: np.ndarray  # uint64 [C]
    left: np.ndarray  # float64 [C]: the share that the discounts left to shorter contexts

    @classmethod
    def of(cls, grams: np.ndarray, counts: np.ndarray) -> Order:
        """From sorted distinct grams [G] and their counts [G]."""
        discounted = counts - discounts(counts)[np.minimum(counts, 3)]
        contexts, first = _runs(grams >> np.uint64(8))
        total = np.add.reduceat(counts, first).astype(np.float64)
        kept = np.add.reduceat(discounted, first)
        lengths = np.diff(first, append=len(grams))
        return cls(grams, discounted / np.repeat(total, lengths), contexts, 1.0 - kept / total)

    def mix(self, shorter_N: np.ndarray, grams_N: np.ndarray) -> np.ndarray:
        """Probabilities [N] of `grams_N`, given those that the next shorter context gives."""
        left_N = _looked_up(self.contexts, self.left, grams_N >> np.uint64(8), missing=1.0)
        return _looked_up(self.grams, self.seen, grams_N, missing=0.0) + left_N * shorter_N


@dataclass(frozen=True)
class NGram:
    """Byte probabilities after up to `order` bytes of context. A document begins after `order` zero bytes."""

    orders: tuple[Order, ...]  # by length of context, from none to `order`

    @classmethod
    def train(cls, documents: Iterable[str | bytes], order: int = 5) -> NGram:
        """Count documents. `order` is the longest context in bytes: 5 predicts a byte from the five before it."""
        if not 0 <= order <= LONGEST:
            raise GrainlineError(f"n-gram order {order}: must lie between 0 and {LONGEST} bytes of context.")
        grams, counts = _counted(documents, order)
        if not len(grams):
            raise GrainlineError("The n-gram baseline was given no text to learn from.")
        orders = [Order.of(grams, counts)]
        for length in range(order - 1, -1, -1):
            # Kneser–Ney: a shorter gram counts once for every different byte that came before it.
            grams, counts = np.unique(grams & np.uint64((1 << (8 * (length + 1))) - 1), return_counts=True)
            orders.append(Order.of(grams, counts))
        return cls(tuple(reversed(orders)))

    @property
    def order(self) -> int:
        """The longest context, in bytes."""
        return len(self.orders) - 1

    def bits(self, document: str | bytes) -> float:
        """What the document costs under the model, in bits."""
        return float(-np.log2(self.probabilities(document)).sum())

    def probabilities(self, document: str | bytes) -> np.ndarray:
        """Probability of every byte of the document after those before it, float64 [bytes]."""
        return self._of_grams(_grams(_bytes(document), self.order))

    def distribution(self, context: bytes) -> np.ndarray:
        """Probability of each of the 256 next bytes, float64 [256]; only the last `order` bytes of context matter."""
        before = (bytes(self.order) + context)[len(context) :]
        return self._of_grams(np.uint64(int.from_bytes(before, "big") << 8) + np.arange(256, dtype=np.uint64))

    def _of_grams(self, grams_N: np.ndarray) -> np.ndarray:
        # Text repeats itself, and sorted look-ups walk memory in order: both make distinct grams the cheap ones to ask.
        distinct, back = np.unique(grams_N, return_inverse=True)
        probability = np.full(len(distinct), 1 / 256)
        for length, order in enumerate(self.orders):
            probability = order.mix(probability, distinct & np.uint64((1 << (8 * (length + 1))) - 1))
        return probability[back]


def discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts [4] of grams seen 0, 1, 2 and 3 or more times, from how many grams were seen once to four times.

    Chen and Goodman 1998, equation 26. Where counts are too few or too large for the estimate, their usual values.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(estimate, 0.0, [0.0, 0.999, 1.999, 2.999])


def _counted(documents: Iterable[str | bytes], order: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct grams of the longest context, and how often each was seen."""
    sums: list[tuple[np.ndarray, np.ndarray]] = []
    for chunk in _chunks(documents, order):
        sums.append(np.unique(chunk, return_counts=True))
        # Like a binary counter: equal neighbours merge, so each gram is merged a logarithmic number of times.
        while len(sums) > 1 and len(sums[-1][0]) * 2 > len(sums[-2][0]):
            sums.append(_merged(sums.pop(), sums.pop()))
    while len(sums) > 1:
        sums.append(_merged(sums.pop(), sums.pop()))
    return sums[0] if sums else (np.empty(0, np.uint64), np.empty(0, np.int64))


def _merged(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    grams = np.concatenate([a[0], b[0]])
    by_gram = np.argsort(grams, kind="stable")
    distinct, first = _runs(grams[by_gram])
    return distinct, np.add.reduceat(np.concatenate([a[1], b[1]])[by_gram], first)


def _chunks(documents: Iterable[str | bytes], order: int) -> Iterator[np.ndarray]:
    """The grams of all documents, CHUNK_BYTES or so at a time."""
    waiting: list[np.ndarray] = []
    size = 0
    for document in documents:
        grams = _grams(_bytes(document), order)
        for start in range(0, len(grams), CHUNK_BYTES):
            waiting.append(grams[start : start + CHUNK_BYTES])
            size += len(waiting[-1])
            if size >= CHUNK_BYTES:
                yield np.concatenate(waiting)
                waiting, size = [], 0
    if size:
        yield np.concatenate(waiting)


def _grams(text: bytes, order: int) -> np.ndarray:
    """For each byte of the text, the `order` bytes before it and itself, as one number: uint64 [bytes]."""
    padded = np.frombuffer(bytes(order) + text, dtype=np.uint8)
    grams = np.zeros(len(text), dtype=np.uint64)
    for back in range(order, -1, -1):
        grams <<= np.uint64(8)
        grams |= padded[order - back : len(padded) - back]
    return grams


def _bytes(document: str | bytes) -> bytes:
    return document.encode("utf-8") if isinstance(document, str) else document


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a sorted array, and where each begins."""
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], first


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)
