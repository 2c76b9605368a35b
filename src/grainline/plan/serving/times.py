"""Seconds of a step, from a few tables: products by number of tokens, attention by sequences and positions."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from grainline.plan.serving.replica import Replica
from grainline.plan.serving.step import Chunk, decode_op, dense_ops, prefill_op, step_ops

GRID = sorted({round(2 ** (i / 4)) for i in range(4 * 17 + 1)})
"""Numbers of tokens at which products are priced; between them times are interpolated."""


@dataclass
class Times:
    """Of one replica. What was asked before is remembered."""

    replica: Replica
    _dense: dict[int, float] = field(default_factory=dict)
    _chunk: dict[Chunk, float] = field(default_factory=dict)

    def dense(self, tokens: float) -> float:
        """Seconds of all but attention over keys."""
        if tokens <= 0:
            return 0.0
        i = bisect_left(GRID, tokens)
        if i == 0:
            return self._at(GRID[0])
        if i == len(GRID):
            return self._at(GRID[-1]) * tokens / GRID[-1]
        low, high = GRID[i - 1], GRID[i]
        share = (tokens - low) / (high - low)
        return self._at(low) * (1 - share) + self._at(high) * share

    def _at(self, tokens: int) -> float:
        if tokens not in self._dense:
            outputs = min(tokens, self.replica.most_sequences)
            speed = self.replica.speed
            self._dense[tokens] = sum(speed.seconds(op) * n for op, n in dense_ops(self.replica, tokens, outputs))
        return self._dense[tokens]

    def decode(self, sequences: float, context: float) -> float:
        """Seconds of attention of running sequences, `context` positions each on average."""
        if sequences <= 0:
            return 0.0
        op = decode_op(self.replica, sequences, context)
        return self.replica.speed.seconds(op) * self.replica.config.layers

    def prefill(self, chunk: Chunk) -> float:
        """Seconds of attention of a chunk."""
        if chunk not in self._chunk:
            op = prefill_op(self.replica, chunk)
            self._chunk[chunk] = self.replica.speed.seconds(op) * self.replica.config.layers
        return self._chunk[chunk]

    def step(self, sequences: float, context: float, *chunks: Chunk) -> float:
        """Seconds of a step of running sequences and chunks of prompts; 0 where there is neither."""
        tokens = sequences + sum(chunk.new for chunk in chunks)
        if tokens <= 0:
            return 0.0
        attention = self.decode(sequences, context) + sum(map(self.prefill, chunks))
        return self.replica.speed.step_seconds + self.dense(tokens) + attention

    def exact(self, sequences: int, context: float, *chunks: Chunk) -> float:
        """The same op by op, without tables."""
        counted = step_ops(self.replica, sequences, context, chunks)
        if not counted:
            return 0.0
        return self.replica.speed.step_seconds + sum(self.replica.speed.seconds(op) * n for op, n in counted)


def chunks_of(new: int, past: int, most: int) -> tuple[Chunk, ...]:
    """A prompt's new tokens in steps of at most so many."""
    return tuple(Chunk(min(most, new - at), past + at) for at in range(0, new, most))
