"""Likelihoods from a model in memory: batched, in windows, exact to the last token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.eval.likelihood import BITS_PER_NAT, Likelihood, Query
from grainline.eval.windows import Window, windows

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer
    from grainline.models.model import Model

LOGIT_ELEMENTS = 1 << 22  # logits made at a time: [rows, V]

Piece = tuple[int, Window]  # which query, and which part of it


class ModelScorer:
    """A `Scorer` over a model and its tokenizer. Each text starts at the document separator."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, *, window: int | None = None, batch_tokens: int = 8192
    ) -> None:
        """`window`: tokens of context, by default all that the model can see. `batch_tokens`: of one forward pass."""
        longest = model.config.max_positions
        if window is not None and not 2 <= window <= longest:
            raise GrainlineError(f"A window of {window} tokens: must lie between 2 and the model's {longest}.")
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise GrainlineError("The tokenizer has no beginning- or end-of-text token to start documents with.")
        self.model, self.tokenizer, self.start_id = model, tokenizer, start
        self.window = longest if window is None else window
        self.batch_tokens = batch_tokens

    def score(self, queries: Sequence[Query], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        """See `likelihood.Scorer`."""
        ids, firsts = self._encoded(queries)
        pieces = [(q, w) for q, row in enumerate(ids) for w in windows(len(row), firsts[q], self.window)]
        bits, left = [0.0] * len(queries), [0] * len(queries)
        for q, _ in pieces:
            left[q] += 1
        if progress is not None:
            progress(left.count(0))  # empty texts
        for batch in batches(pieces, self.batch_tokens):
            for (q, _), cost in zip(batch, self._costs(batch, ids), strict=True):
                bits[q] += cost
                left[q] -= 1
                if progress is not None and not left[q]:
                    progress(1)
        lengths = [len(query.text.encode("utf-8")) for query in queries]
        return [Likelihood(bits[q], lengths[q], len(row) - firsts[q]) for q, row in enumerate(ids)]

    def _encoded(self, queries: Sequence[Query]) -> tuple[list[list[int]], list[int]]:
        """Ids of context and text together, after the separator; and the first position that belongs to the text.

        They are tokenised as one document would be. A token that spans the border therefore belongs to the text; a
        text that begins with a space after a whole word, as words do, never has one.
        """
        whole = self.tokenizer.encode_batch([query.context + query.text for query in queries])
        ids = [[self.start_id, *row] for row in whole]
        contexts = iter(self.tokenizer.encode_batch([query.context for query in queries if query.context]))
        firsts = [
            1 + (_common(row, next(contexts)) if query.context else 0)
            for query, row in zip(queries, whole, strict=True)
        ]
        return ids, firsts

    @torch.inference_mode()
    def _costs(self, batch: Sequence[Piece], ids: Sequence[Sequence[int]]) -> list[float]:
        """Bits of each piece."""
        device = self.model.device
        longest = max(window.inputs for _, window in batch)
        # Padding goes on the right, where causal attention keeps it from being seen.
        ids_BS = torch.full((len(batch), longest), self.start_id, dtype=torch.long)
        label_BS = torch.full((len(batch), longest), -100, dtype=torch.long)
        for b, (q, w) in enumerate(batch):
            ids_BS[b, : w.inputs] = torch.tensor(ids[q][w.start : w.stop])
            label_BS[b, w.first - 1 - w.start : w.inputs] = torch.tensor(ids[q][w.first : w.stop + 1])
        hidden_BSD = self.model.trunk(ids_BS.to(device)).hidden_BSD
        scored_BS = label_BS != -100
        nats_N = self._nats(hidden_BSD[scored_BS.to(device)], label_BS[scored_BS].to(device)).cpu().double()
        per_piece_B = [part.sum().item() for part in nats_N.split(scored_BS.sum(1).tolist())]
        return [nats * BITS_PER_NAT for nats in per_piece_B]

    def _nats(self, hidden_ND: Tensor, label_N: Tensor) -> Tensor:
        """Negative log-likelihood of each label, [N] float32; logits [N, V] never exist as a whole."""
        rows = max(1, LOGIT_ELEMENTS // self.model.config.vocab_size)
        chunks = zip(hidden_ND.split(rows), label_N.split(rows), strict=True)
        return torch.cat([F.cross_entropy(self.model.logits(h).float(), y, reduction="none") for h, y in chunks])


def batches(pieces: Sequence[Piece], batch_tokens: int) -> Iterator[list[Piece]]:
    """Pieces of like length together, the longest first, in batches of at most `batch_tokens` with padding."""
    waiting: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: -piece[1].inputs):
        if waiting and (len(waiting) + 1) * waiting[0][1].inputs > batch_tokens:
            yield waiting
            waiting = []
        waiting.append(piece)
    if waiting:
        yield waiting


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
