"""What a Hugging Face folder holds, read from config.json and the headers of its weight files. No torch here."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grainline.documents import GrainlineError, ModelConfig, read_tables
from grainline.models import formats
from grainline.models.formats import staging
from grainline.models.formats.layout import Shape

log = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Stored:
    """One tensor in a weight file; `dtype` is safetensors' word for it."""

    file: Path
    shape: Shape
    dtype: str


def read_config(folder: Path) -> ModelConfig:
    """ModelConfig of the model in a folder.

    Two files decide beside config.json. The ids that end a generation are generation_config.json's where it has any
    (chat models end turns with ids that config.json doesn't name). The layer of multi-token prediction counts if its
    tensors are there, whatever config.json says: published configs leave it out, and transformers drops the tensors.
    """
    staging.finish(folder)
    path = folder / "config.json"
    tables = read_tables(path)
    generation = folder / "generation_config.json"
    if generation.exists():
        tables |= {k: v for k, v in read_tables(generation).items() if k == "eos_token_id" and v is not None}
    config = formats.config_from_hf(tables, path)
    names = _tensor_names(folder)
    if names is not None and formats.has_mtp(config):
        prefix = formats.layer_prefix(config, config.layers)
        depth = int(any(name.startswith(prefix) for name in names))
        if depth != config.mtp_depth:
            found = "has a" if depth else "has no"
            log.warning(
                "%s says otherwise, but the folder %s layer of multi-token prediction; going by that.", path, found
            )
            config = config.model_copy(update={"mtp_depth": depth})
    return config


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Name → where it is stored, of every tensor in the folder's weight files.

    Raises GrainlineError for a missing, damaged or quantised file, and for a folder with pickles only.
    """
    stored: dict[str, Stored] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    part = opened.get_slice(name)
                    stored[name] = Stored(file, tuple(part.get_shape()), part.get_dtype())
        except FileNotFoundError:
            raise GrainlineError(f"{file}: no such file, though {INDEX} names it. Download it again.") from None
        except SafetensorError as error:
            raise GrainlineError(f"{file}: cut short or damaged ({error}). Download or save it again.") from None
    quantised = [f"{name} ({s.dtype})" for name, s in stored.items() if s.dtype not in _FLOATS]
    if quantised:
        raise GrainlineError(
            f"{folder}: quantised weights can't be read: {_some(quantised)}. Take this model's bf16 weights."
        )
    return stored


def check_tensors(folder: Path, config: ModelConfig, stored: Mapping[str, Stored]) -> None:
    """GrainlineError listing what is missing, not expected, or of another shape than the config asks for."""
    layout = formats.tensors(config)
    wanted = {piece.source: piece.source_shape for entry in layout.entries for piece in entry.pieces}
    allowed = {copy.source: wanted[copy.of] for copy in layout.copies if copy.source in stored}
    missing = [f"{name} {list(shape)}" for name, shape in wanted.items() if name not in stored]
    unexpected = [
        f"{name} {list(s.shape)}"
        for name, s in stored.items()
        if name not in wanted and name not in allowed and not name.endswith("rotary_emb.inv_freq")  # recomputed
    ]
    other = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in (wanted | allowed).items()
        if name in stored and stored[name].shape != shape
    ]
    found = {"missing": missing, "not expected": unexpected, "of another shape": other}
    problems = [f"{len(names)} {what}: {_some(names)}." for what, names in found.items() if names]
    if problems:
        lines = [f"{folder}: the weights don't fit config.json (model_type of family '{config.family}').", *problems]
        raise GrainlineError("\n  ".join(lines))


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        files = {str(name) for name in _weight_map(folder).values()}
        outside = [name for name in files if Path(name).name != name]
        if outside:
            raise GrainlineError(f"{folder / INDEX}: weight_map names files outside the folder: {_some(outside)}.")
        return [folder / name for name in sorted(files)]
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise GrainlineError(
            f"{folder}: its weights are pickles ({_some(pickles)}), and loading a pickle runs whatever code is in it, "
            "so grainline never does. If you trust their source, convert them to safetensors with transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    raise GrainlineError(f"{folder}: has no weights: neither {SINGLE} nor {INDEX} is there.")


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_tables(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise GrainlineError(f"{folder / INDEX}: weight_map: is required, a table of tensor names and their files.")
    return weight_map


def _tensor_names(folder: Path) -> list[str] | None:
    """Names without opening shards; None where there are no weights."""
    if (folder / SINGLE).exists():
        return list(stored_tensors(folder))
    return list(_weight_map(folder)) if (folder / INDEX).exists() else None


def _some(names: list[str], most: int = 8) -> str:
    """The first few of a long list, layers' numbers made comparable so that it reads in order."""
    ordered = sorted(names, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)])
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
