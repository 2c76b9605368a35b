"""What a layer remembers of earlier positions while generating."""

from __future__ import annotations

from torch import Tensor

from grainline.documents import GrainlineError


class Cache:
    """One or more tensors that grow along the sequence (dimension 1), in buffers that double when full.

    Opaque to everyone but the attention that fills it: GQA keeps k and v, MLA its latent and the rotated key; CCA also
    a `tail`, the last rows of what it doesn't keep whole.
    """

    def __init__(self) -> None:
        self.length = 0
        self.tail: tuple[Tensor, ...] = ()
        self._buffers: tuple[Tensor, ...] = ()

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Add tensors [B, n, …] and return everything so far, [B, length, …] each."""
        start, stop = self.length, self.length + new[0].shape[1]
        if not self._buffers or stop > self._buffers[0].shape[1]:
            capacity = max(64, 1 << (stop - 1).bit_length())
            grown = tuple(x.new_empty(x.shape[0], capacity, *x.shape[2:]) for x in new)
            for into, old in zip(grown, self._buffers, strict=False):
                into[:, :start] = old[:, :start]
            self._buffers = grown
        for buffer, x in zip(self._buffers, new, strict=True):
            buffer[:, start:stop] = x
        self.length = stop
        return self.held

    @property
    def held(self) -> tuple[Tensor, ...]:
        """Everything so far, [B, length, …] each."""
        return tuple(buffer[:, : self.length] for buffer in self._buffers)

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on.

        Raises GrainlineError where a tail would have to be that of an earlier position: those are gone.
        """
        if length >= self.length:
            return
        if self.tail and length > 0:
            raise GrainlineError(
                f"a state of {self.length} positions can't be cut back to {length}: compressed convolutional attention "
                "keeps the rows that its convolutions need for the last position only. Start a new state."
            )
        self.length, self.tail = length, ()
