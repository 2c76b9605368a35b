"""A schedule's actions as columns of numbers, and look-up by several numbers at once: for a million actions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from grainline.schedule.actions import Action, Kind

Longs = NDArray[np.int64]
Mask = NDArray[np.bool_]

KINDS = tuple(Kind)
CODE = {kind: code for code, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Columns:
    """A row per action: its fields as numbers, and the rank whose list it stands in."""

    kind: Longs  # index into KINDS
    stage: Longs
    microbatch: Longs
    rank: Longs
    peer: Longs
    peer_stage: Longs

    @classmethod
    def of(cls, lists: Sequence[Sequence[Action]]) -> Columns:
        """All actions of rank 0's list, then of rank 1's, and so on."""
        actions = list(chain.from_iterable(lists))
        return cls(
            kind=np.array([CODE[action.kind] for action in actions], np.int64),
            stage=np.array([action.stage for action in actions], np.int64),
            microbatch=np.array([action.microbatch for action in actions], np.int64),
            rank=np.repeat(np.arange(len(lists)), [len(one) for one in lists]),
            peer=np.array([action.peer for action in actions], np.int64),
            peer_stage=np.array([action.peer_stage for action in actions], np.int64),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: Longs) -> Columns:
        """These rows alone, in this order."""
        return Columns(*(getattr(self, field.name)[rows] for field in fields(self)))

    def are(self, kinds: Iterable[Kind]) -> Mask:
        """Which rows are of one of these kinds."""
        wanted = np.zeros(len(KINDS), dtype=bool)
        wanted[[CODE[kind] for kind in kinds]] = True
        return wanted[self.kind]

    def rows(self, kinds: Iterable[Kind]) -> Longs:
        """Rows of these kinds, ascending."""
        return np.flatnonzero(self.are(kinds))


class Index:
    """Values by keys of one or more columns, each number −1 or more. A key may have several values.

    OverflowError where the columns' ranges together have more than 2⁶³ keys: beyond some ten thousand ranks.
    """

    def __init__(self, values: Longs, *keys: Longs) -> None:
        self._sizes = [2 + int(key.max(initial=-1)) for key in keys]
        if math.prod(self._sizes) >= 2**63:
            raise OverflowError(f"too many keys: {self._sizes}")
        packed = self._packed(keys)
        order = np.argsort(packed, kind="stable")
        self._keys, self._values = packed[order], values[order]

    def first(self, *wanted: Longs) -> Longs:
        """The first value of each wanted key, −1 where it has none."""
        packed = self._packed(wanted)
        if not len(self._keys):
            return np.full(len(packed), -1)
        at = np.minimum(np.searchsorted(self._keys, packed), len(self._keys) - 1)
        return np.where((self._keys[at] == packed) & (packed >= 0), self._values[at], -1)

    def all(self, *wanted: Longs) -> tuple[Longs, Longs]:
        """Every value of each wanted key: pairs of the place among the wanted, and the value."""
        packed = self._packed(wanted)
        begin = np.searchsorted(self._keys, packed, side="left")
        count = np.where(packed < 0, 0, np.searchsorted(self._keys, packed, side="right") - begin)
        which = np.repeat(np.arange(len(packed)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        return which, self._values[begin[which] + within]

    def doubled(self) -> Longs:
        """Values whose key another value has that came before."""
        return self._values[1:][(self._keys[1:] == self._keys[:-1]) & (self._keys[1:] >= 0)]

    def _packed(self, keys: Sequence[Longs]) -> Longs:
        """One number for each key; −1 for one beyond all that there are, which nothing is found by."""
        found = np.zeros(len(keys[0]), dtype=np.int64)
        is_beyond = np.zeros(len(keys[0]), dtype=bool)
        for key, size in zip(keys, self._sizes, strict=True):
            is_beyond |= (key < -1) | (key >= size - 1)
            found = found * size + key + 1
        found[is_beyond] = -1
        return found
