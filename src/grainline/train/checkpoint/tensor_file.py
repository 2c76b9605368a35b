"""One safetensors file, written in a single pass: streamed, hashed and synced, so that a full disk shows as such."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a checkpoint may hold, by its name in a safetensors header."""


@dataclass(frozen=True)
class Written:
    """A file that is on disk, and how to tell that it still is what was written."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write CPU tensors in safetensors' format (8 bytes of header length, a JSON header, the data).

    `safetensors.torch.save_file` would do, but copies every tensor, holds the interpreter while it writes and doesn't
    sync; the hash would need a second pass.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for part in (len(text).to_bytes(8, "little"), text, *(as_bytes(t) for t in tensors.values())):
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return Written(8 + len(text) + offset, digest.hexdigest())


def as_bytes(tensor: Tensor) -> Any:
    """The data of a CPU tensor in row-major order; a view where it lies so already."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
