"""Models by folder, run folder and hub id, with their tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import grainline
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError, ModelConfig
from grainline.models.loading import build, load, load_config

TEXT = ["The grainline is the direction of the threads of a cloth.", "Cut along it and the cloth holds."] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, vocab_size=300)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 16, "layers": 2, "ffn_hidden": 24}
    config = ModelConfig.model_validate({"family": "llama", **sizes, "attention": {"heads": 2, "head_dim": 8}})
    path = tmp_path / "run" / "model"
    build(config, seed=3).save(path, tokenizer, card="# Card\n")
    return path


def test_a_saved_model_comes_back_with_its_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    model, again = grainline.load(folder)
    assert again.encode(TEXT[0]) == tokenizer.encode(TEXT[0])
    assert again.decode(again.encode(TEXT[0])) == TEXT[0]
    wanted = build(model.config, seed=3).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert (folder / "README.md").read_text() == "# Card\n"


def test_the_folder_of_a_run_stands_for_its_model(folder: Path) -> None:
    assert load_config(folder.parent) == load_config(str(folder))
    assert load(str(folder.parent))[0].config == load_config(folder)


def test_dtype_and_device_are_chosen_by_name_or_object(folder: Path) -> None:
    assert load(folder, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert load(folder, dtype=torch.float64)[0].dtype == torch.float64
    assert load(folder, device=torch.device("meta"))[0].device.type == "meta"
    with pytest.raises(GrainlineError, match=r"'bfloat61' is not known\. Did you mean 'bfloat16'"):
        load(folder, dtype="bfloat61")


def test_a_tokenizer_larger_than_the_model_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(folder)
    assert not caplog.messages
    Tokenizer.train([Path(__file__).read_text()], vocab_size=400).save(folder)
    load(folder)
    assert "the tokenizer has 400 tokens, the model only 320" in caplog.text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing here", "no such folder, and not a hub id"),
        ("/nothing/here/at/all", "no such folder, and not a hub id"),
        (".", "not a model's folder"),
        ("model.gguf", "is a file"),
    ],
)
def test_what_is_no_model_is_said_plainly(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").write_bytes(b"GGUF")
    with pytest.raises(GrainlineError, match=said):
        load(path)


HUB = """
import sys
from grainline.documents import GrainlineError
from grainline.models.locate import load_config, locate
for hub_id in sys.argv[1:]:
    try:
        print(load_config(hub_id).vocab_size, (locate(hub_id) / "model.safetensors").exists())
    except GrainlineError as error:
        print(error)
print("torch" in sys.modules)
"""


def test_hub_ids_are_taken_from_the_cache_when_offline(folder: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--someone--small"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    for name in ("main", "v1"):
        (cached / "refs" / name).write_text(commit)
    ids = ["someone/small", "someone/small@v1", "someone/other", "someone/small@v2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    ran = subprocess.run([sys.executable, "-c", HUB, *ids], env=environment, capture_output=True, text=True, check=True)
    first, second, third, fourth, torch_is_in = ran.stdout.splitlines()
    assert first == second == "320 True"
    assert third.startswith("someone/other: no such folder here")
    assert "hf download someone/other" in third
    assert fourth.startswith("someone/small@v2: no such folder here")
    assert torch_is_in == "False"


def test_a_folder_with_a_config_only_gives_its_config(folder: Path, tmp_path: Path) -> None:
    tables = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(tables))
    assert load_config(tmp_path).vocab_size == 320
