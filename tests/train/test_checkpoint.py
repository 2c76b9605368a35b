"""Checkpoints: exact, whole or absent, never a pickle, and what is wrong with one is said."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from grainline.train.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    CheckpointSource,
    CheckpointWriter,
    load,
    newest,
    tensor_file,
    verify,
)
from grainline.train.checkpoint import storage as storage_module
from grainline.train.checkpoint.tensor_file import DTYPES, write_tensors


def _tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.embedding.weight": torch.randn(7, 3, generator=generator),
        "model.half": torch.randn(4, 2, 3, generator=generator).bfloat16(),
        "model.scalar": torch.tensor(3.25),
        "model.view": torch.randn(6, 4, generator=generator).t(),
        "optimizer.momentum.x": torch.randn(5, generator=generator),
    }


def _save(folder: CheckpointFolder, step: int, seed: int = 0, **state: object) -> Path:
    writer = CheckpointWriter()
    writer.save(folder, step, _tensors(seed), {"step": step, **state})
    writer.close()
    return folder.at(step)


def _said(folder: CheckpointFolder) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    return newest(folder, said.append), said


def test_what_was_saved_is_loaded_exactly(tmp_path: Path) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 12, loss=0.1 + 0.2, best=None, history=[1e-300, 5.0])
    assert verify(checkpoint).step == 12
    into = {name: torch.zeros_like(t) for name, t in _tensors().items()}
    state = load(checkpoint, into)
    assert state == {"step": 12, "loss": 0.1 + 0.2, "best": None, "history": [1e-300, 5.0]}
    for name, tensor in _tensors().items():
        assert torch.equal(into[name], tensor), name


def test_there_is_nothing_but_safetensors_and_json(tmp_path: Path) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 1)
    assert sorted(p.name for p in checkpoint.iterdir()) == [
        "manifest.json",
        "shard-00000.safetensors",
        "state.json",
        "tensors.json",
    ]
    for path in checkpoint.glob("*.json"):
        json.loads(path.read_text())
    saved = load_file(checkpoint / "shard-00000.safetensors")
    assert saved.keys() == _tensors().keys()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_is_what_safetensors_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype), "none": torch.zeros(0, 3, dtype=dtype)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == dtype


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = storage_module.write_tensors

    def slow(path: Path, tensors: dict[str, torch.Tensor]) -> tensor_file.Written:
        go_on.wait(10)
        return real(path, tensors)

    monkeypatch.setattr(storage_module, "write_tensors", slow)
    folder, tensors, writer = CheckpointFolder(tmp_path), _tensors(), CheckpointWriter()
    held_up = writer.save(folder, 1, tensors, {})
    assert folder.steps() == []  # still being written
    for tensor in tensors.values():
        tensor.fill_(7)
    go_on.set()
    writer.close()
    assert held_up < 5
    assert torch.equal(
        CheckpointSource(folder.at(1)).read("model.embedding.weight"), _tensors()["model.embedding.weight"]
    )


def test_tensors_are_read_one_by_one_under_a_prefix(tmp_path: Path) -> None:
    source = CheckpointSource(_save(CheckpointFolder(tmp_path), 1), "model.")
    assert sorted(source.names()) == ["embedding.weight", "half", "scalar", "view"]
    for name in source.names():
        assert torch.equal(source.read(name), _tensors()[f"model.{name}"])
    with pytest.raises(CheckpointError, match=r"no tensor model\.other"):
        source.read("other")


def test_the_newest_few_are_kept_and_later_ones_are_discarded(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 30, 4):
        _save(folder, step)
    assert folder.steps() == [4, 30]
    folder.discard_after(4)
    assert folder.steps() == [4]
    assert CheckpointFolder(tmp_path / "nothing").steps() == []


@pytest.mark.parametrize("file", ["shard-00000.safetensors", "state.json", "tensors.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, file: str, harm: str) -> None:
    folder = CheckpointFolder(tmp_path)
    before = _save(folder, 10)
    path = _save(folder, 20) / file
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    found, said = _said(folder)
    assert found == before
    assert len(said) == 1
    assert str(path) in said[0]
    assert {"cut": "cut short", "flip": "checksum", "remove": "missing"}[harm] in said[0]


def test_a_checkpoint_with_its_manifest_cut_short_is_not_used(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    manifest = _save(folder, 10) / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    with pytest.raises(CheckpointError, match=r"manifest\.json: is damaged"):
        newest(folder, print)


def test_if_none_is_whole_it_says_so(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    (_save(folder, 10) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        newest(folder, print)
    assert _said(CheckpointFolder(tmp_path / "new")) == (None, [])


@pytest.mark.parametrize("name", ["optimizer.pt", "__0_0.distcp", ".metadata", "sub/model.pkl", "data.PTH"])
def test_a_checkpoint_with_a_pickle_in_it_is_refused(tmp_path: Path, name: str) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 1)
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="looks like a pickle"):
        verify(checkpoint)


def test_a_file_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 1)
    (checkpoint / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="isn't part of this checkpoint"):
        verify(checkpoint)


def test_another_model_is_named_by_its_tensor(tmp_path: Path) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 1)
    with pytest.raises(
        CheckpointError, match=r"model\.embedding\.weight has shape \[7, 3\], and the model's is \[8, 3\].*--no-resume"
    ):
        load(checkpoint, {"model.embedding.weight": torch.zeros(8, 3)})
    with pytest.raises(CheckpointError, match=r"has no tensor model\.more"):
        load(checkpoint, {"model.more": torch.zeros(8)})


def test_a_checkpoint_of_a_later_format_asks_for_a_later_grainline(tmp_path: Path) -> None:
    checkpoint = _save(CheckpointFolder(tmp_path), 1)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(CheckpointError, match="Upgrade grainline"):
        verify(checkpoint)


@pytest.mark.parametrize("at", ["write_tensors", "write_json"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    before = _save(folder, 10)

    def full(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage_module, at, full)
    writer = CheckpointWriter()
    writer.save(folder, 20, _tensors(1), {})
    with pytest.raises(CheckpointError, match=r"disk is full\. The checkpoint of step 10 is whole"):
        writer.close()
    assert list(tmp_path.iterdir()) == [before]
    assert _said(folder) == (before, [])


def test_a_failed_save_shows_at_once_and_at_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, _: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(storage_module, "write_tensors", broken)
    writer = CheckpointWriter()
    writer.save(CheckpointFolder(tmp_path), 1, _tensors(), {})
    with pytest.raises(CheckpointError, match="met ValueError: odd"):
        writer.save(CheckpointFolder(tmp_path), 2, _tensors(), {})
    assert not writer.has_failed  # said once
    writer.close()


def test_what_a_killed_run_began_is_cleared(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    _save(folder, 10)
    (tmp_path / ".step-00000020.partial").mkdir()
    (tmp_path / ".step-00000020.partial" / "shard-00000.safetensors").write_bytes(b"x")
    assert folder.steps() == [10]
    folder.clear_partial()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def _tiny_disk(folder: Path, bytes_: int) -> None:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={bytes_}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    _tiny_disk(tmp_path / "disk", 1 << 20)
    try:
        folder = CheckpointFolder(tmp_path / "disk" / "checkpoints", keep=2)
        before = _save(folder, 10)
        writer = CheckpointWriter()
        writer.save(folder, 20, {"model.x": torch.zeros(1 << 19)}, {})
        with pytest.raises(CheckpointError, match=r"disk is full\. The checkpoint of step 10 is whole"):
            writer.close()
        assert list(folder.path.iterdir()) == [before]
        assert _said(folder) == (before, [])
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)
