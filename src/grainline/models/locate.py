"""Where a model is: a folder on disk, a training run's folder, or an id on the Hugging Face hub. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.formats import staging
from grainline.models.formats.folder import read_config

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_CONFIG_FILES = ["config.json", "generation_config.json", "model.safetensors.index.json"]
_ALL_FILES = ["model*.safetensors", "*.json", "*.jinja"]


def locate(path_or_hub_id: str | Path, *, weights: bool = True) -> Path:
    """The folder with a model's config.json.

    A folder is taken as it is, or its `model/` (a training run's). Anything else of the form ORG/NAME[@REVISION] is a
    hub id, downloaded into huggingface_hub's cache (weights=False: the config only); HF_HUB_OFFLINE is respected.

    Raises GrainlineError where there is nothing, saying what to do.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        for folder in (path, path / "model"):
            staging.finish(folder)
            if (folder / "config.json").exists():
                return folder
        raise GrainlineError(
            f"{path}: has no config.json, nor has a folder 'model' in it: this is not a model's folder."
        )
    if path.exists():
        raise GrainlineError(f"{path}: is a file; a folder with config.json and model.safetensors is wanted.")
    if not _HUB_ID.fullmatch(str(path_or_hub_id)):
        raise GrainlineError(f"{path_or_hub_id}: no such folder, and not a hub id of the form ORG/NAME.")
    return _download(str(path_or_hub_id), _ALL_FILES if weights else _CONFIG_FILES)


def load_config(path_or_hub_id: str | Path) -> ModelConfig:
    """The ModelConfig of a model, by folder or hub id; reads no weights."""
    return read_config(locate(path_or_hub_id, weights=False))


def _download(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = hub_id.partition("@")
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=patterns)
    except LocalEntryNotFoundError:
        raise GrainlineError(
            f"{hub_id}: no such folder here, and as a hub id it is neither in the cache nor within reach (no network, "
            f"or HF_HUB_OFFLINE is set). With network: hf download {name}; its cache (HF_HOME) can be copied here. "
            "Or give the path of a folder."
        ) from None
    except GatedRepoError:
        raise GrainlineError(
            f"{hub_id}: asks for consent. Accept its terms on huggingface.co, then: hf auth login."
        ) from None
    except RevisionNotFoundError:
        raise GrainlineError(f"{hub_id}: the hub has no revision '{revision}' of it.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise GrainlineError(
            f"{hub_id}: no such folder here, and no such model on the hub, or a private one (then: hf auth login)."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise GrainlineError(f"{hub_id}: can't be downloaded: {error}") from None
    return Path(folder)
