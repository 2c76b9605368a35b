"""What a checkpoint folder holds: safetensors, JSON for everything else, and a manifest that vouches for them.

    step-00000200/
      manifest.json                 schema_version, step, and bytes and SHA-256 of every other file
      state.json                    the run's scalars
      tensors.json                  each tensor's dtype, shape, and the file that holds each chunk of it
      shard-00000.safetensors …     one per rank that wrote

There is no pickle, and a folder with one, or with any file that the manifest doesn't name, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError
from grainline.train.checkpoint.tensor_file import Written

SCHEMA_VERSION = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.json"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".distcp", ".metadata")


class CheckpointError(GrainlineError):
    """A checkpoint that can't be read or written."""


@dataclass(frozen=True)
class Manifest:
    """The step that a checkpoint is of, and its files."""

    step: int
    files: dict[str, Written]


def write_json(path: Path, value: object) -> Written:
    """Write and sync; the floats read back equal."""
    text = json.dumps(value, indent=1).encode()
    with path.open("xb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Written(len(text), hashlib.sha256(text).hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Vouch for the files of `folder`."""
    write_json(
        folder / MANIFEST,
        {
            "schema_version": SCHEMA_VERSION,
            "step": manifest.step,
            "files": {name: asdict(written) for name, written in sorted(manifest.files.items())},
        },
    )


def read_manifest(folder: Path) -> Manifest:
    """Read what is vouched for; raises CheckpointError."""
    raw = read_json(folder / MANIFEST)
    try:
        version = raw["schema_version"]
        if version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{folder}: written in version {version} of the checkpoint format; this grainline reads up to "
                f"{SCHEMA_VERSION}. Upgrade grainline."
            )
        return Manifest(raw["step"], {name: Written(**written) for name, written in raw["files"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: is not a checkpoint manifest ({error!r}).") from None


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint; raises CheckpointError if it is missing or cut short."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; the checkpoint is incomplete.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}).") from None


def verify(folder: Path) -> Manifest:
    """Check every file of a checkpoint against its manifest; raises CheckpointError naming the first odd one."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint.")
    manifest = read_manifest(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in PICKLE_SUFFIXES or path.name in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{path}: looks like a pickle, which can run code when it is read. grainline's checkpoints hold "
                "safetensors and JSON alone; remove the file if you know where it comes from."
            )
        if name != MANIFEST and name not in manifest.files:
            raise CheckpointError(f"{path}: isn't part of this checkpoint. Move it out of the folder.")
    for name, written in manifest.files.items():
        _verify_file(folder / name, written)
    return manifest


def _verify_file(path: Path, written: Written) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; the checkpoint is incomplete.")
    if path.stat().st_size != written.bytes:
        raise CheckpointError(
            f"{path}: has {path.stat().st_size} bytes of {written.bytes}; it was cut short or changed."
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != written.sha256:
            raise CheckpointError(f"{path}: its checksum differs from the one it was written with; it is damaged.")
