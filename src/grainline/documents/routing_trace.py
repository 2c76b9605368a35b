"""A routing trace: which experts each token of a sample chose in each sparse layer, and of which model that is.

An .npz file without pickles. It isn't one of the four documents: nobody writes it by hand.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from grainline.documents.base import write_atomically
from grainline.documents.errors import DocumentError, GrainlineError
from grainline.documents.model_config import ModelConfig

VERSION = 1
NONE = -1
"""In place of an expert: the token chose fewer, or one without weights (zero, copy, constant)."""


@dataclass(frozen=True)
class RoutingTrace:
    """expert_TLK: int, the experts of each token by sparse layer, NONE where it has fewer than K.

    sequence_T: which sequence each token is of; tokens of one stand together, in order. layers: numbers of the sparse
    layers, in the order that tokens pass them. router: fingerprint of the routers' weights.
    """

    expert_TLK: NDArray[np.int32]
    sequence_T: NDArray[np.int32]
    layers: tuple[int, ...]
    config: ModelConfig
    router: str

    def __post_init__(self) -> None:
        shape = self.expert_TLK.shape
        if len(shape) != 3 or not all(shape):
            raise GrainlineError(f"a routing trace is [tokens, layers, choices], none of them 0, not {list(shape)}.")
        if self.sequence_T.shape != shape[:1] or len(self.layers) != shape[1]:
            raise GrainlineError(
                f"a routing trace of {shape[0]} tokens and {shape[1]} layers has sequences of {len(self.sequence_T)} "
                f"tokens and {len(self.layers)} layer numbers."
            )
        if self.config.moe is None or not set(self.layers) <= set(self.config.sparse_layers):
            raise GrainlineError(f"a routing trace of layers {list(self.layers)}, not all of them sparse.")
        low, high = int(self.expert_TLK.min()), int(self.expert_TLK.max())
        if low < NONE or high >= self.experts:
            wrong = low if low < NONE else high
            raise GrainlineError(f"a routing trace names expert {wrong}, and the model's are 0 to {self.experts - 1}.")

    @property
    def experts(self) -> int:
        """That a layer's router chooses among: with weights, those shared with other layers included."""
        assert self.config.moe is not None
        return self.config.moe.pool

    @property
    def tokens(self) -> int:
        """Of the sample."""
        return len(self.sequence_T)

    @cached_property
    def banks(self) -> tuple[int, ...]:
        """Of each traced layer, the number of the bank of experts that it chooses from: layers may share one."""
        firsts = [self.config.expert_layers(layer)[0] for layer in self.layers]
        numbers = {first: i for i, first in enumerate(sorted(set(firsts)))}
        return tuple(numbers[first] for first in firsts)

    def halves(self) -> tuple[RoutingTrace, RoutingTrace]:
        """Every other sequence, and the rest: one to decide by, one to judge by.

        Raises GrainlineError where there is one sequence alone: neighbouring tokens of it are no independent sample.
        """
        numbers = np.unique(self.sequence_T)
        if len(numbers) < 2:
            raise GrainlineError(
                "the routing trace is of one sequence, which can't be divided into one part to decide by and one to "
                "judge by. Record several."
            )
        first_T = np.isin(self.sequence_T, numbers[::2])
        return self.of_tokens(first_T), self.of_tokens(~first_T)

    def of_tokens(self, chosen_T: NDArray[np.bool_]) -> RoutingTrace:
        """Some of the tokens."""
        return RoutingTrace(self.expert_TLK[chosen_T], self.sequence_T[chosen_T], self.layers, self.config, self.router)

    def require_same_model(self, other: RoutingTrace, name: str) -> None:
        """Raise GrainlineError unless `other`, called `name`, is of the very same routers."""
        for what in ("layers", "experts", "router"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                told = f"{what} {theirs} and not {mine}" if what != "router" else "routers with other weights"
                raise GrainlineError(f"{name} is a routing trace of another model: it has {told}.")

    def save(self, path: str | Path) -> None:
        """Write a .npz, whole or not at all."""
        path = Path(path)
        if path.suffix != ".npz":
            raise DocumentError(["a routing trace is written to a name that ends in .npz."], path)
        header = {
            "version": VERSION,
            "layers": self.layers,
            "router": self.router,
            "config": self.config.tables(),
        }
        narrow = np.int16 if self.experts < np.iinfo(np.int16).max else np.int32
        out = io.BytesIO()
        np.savez_compressed(
            out,
            expert_TLK=self.expert_TLK.astype(narrow),
            sequence_T=self.sequence_T.astype(np.int32),
            header=np.array(json.dumps(header)),
        )
        write_atomically(path, out.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a .npz; raises DocumentError for a file that isn't one, or whose numbers can't be."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                expert_TLK, sequence_T = file["expert_TLK"], file["sequence_T"]
        except FileNotFoundError:
            raise DocumentError(["no such file. Record one with grainline plan trace."], path) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            raise DocumentError(["is not a routing trace as grainline plan trace writes them."], path) from None
        if not isinstance(header, dict) or not {"version", "layers", "router", "config"} <= set(header):
            raise DocumentError(["is not a routing trace as grainline plan trace writes them."], path)
        if header["version"] != VERSION:
            raise DocumentError([f"is a routing trace of version {header['version']}; this reads {VERSION}."], path)
        if expert_TLK.dtype.kind != "i" or sequence_T.dtype.kind != "i":
            raise DocumentError([f"its experts are {expert_TLK.dtype}, and must be whole numbers."], path)
        config = ModelConfig.parse(header["config"], where=path)
        try:
            return cls(
                expert_TLK.astype(np.int32),
                sequence_T.astype(np.int32),
                tuple(header["layers"]),
                config,
                str(header["router"]),
            )
        except GrainlineError as error:
            raise DocumentError([str(error)], path) from None
