"""Folders of weights: what is saved is whole or not there, and what is broken is named."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.build import build
from grainline.models.formats import huggingface, staging
from grainline.models.formats.huggingface import load_model, save_folder, write_folder
from grainline.models.model import Model

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "layers": 3, "ffn_hidden": 48, "max_positions": 64}
GQA = {"heads": 4, "kv_heads": 2, "head_dim": 8}
MLA = {"kind": "mla", "heads": 4, "head_dim": 8, "q_rank": 12, "kv_rank": 16, "rope_dim": 4, "value_dim": 6}
SIGMOID = {"experts": 8, "top_k": 2, "expert_hidden": 16, "bias_balanced": True, "groups": 4, "top_groups": 2}
SOFTMAX = {"experts": 8, "top_k": 2, "expert_hidden": 16, "router": "softmax-topk"}
CONFIGS: dict[str, dict[str, Any]] = {
    "ling2": {
        "attention": GQA | {"qk_norm": True, "rope": {"fraction": 0.5}},
        "moe": SIGMOID | {"dense_layers": (0,), "shared_experts": 1, "scale": 2.5},
        "mtp_depth": 1,
    },
    "deepseek-v3": {
        "attention": MLA | {"rope": {"interleaved": True}},
        "moe": SIGMOID | {"dense_layers": (0, 1), "shared_experts": 2},
        "mtp_depth": 1,
    },
    "qwen3-moe": {"attention": GQA | {"qk_norm": True}, "moe": SOFTMAX | {"dense_layers": (1,)}},
    "mixtral": {"attention": GQA, "moe": SOFTMAX},
    "llama": {"attention": GQA, "tie_embeddings": True},
    "qwen3": {"attention": GQA | {"qk_norm": True, "bias": True, "output_bias": True}},
}


def model_of(family: str, seed: int = 0) -> Model:
    model = build(ModelConfig.model_validate({"family": family, **SIZES, **CONFIGS[family]}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_load_save_loses_nothing(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = model_of(family)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save(tmp_path / "first", card="# A model\n")
    again = load_model(tmp_path / "first")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert again.state_dict()[name].dtype == tensor.dtype, name
    again.save(tmp_path / "second", card="# A model\n")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert sorted(contents(tmp_path / "first")) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert json.loads(contents(tmp_path / "first")["config.json"])["torch_dtype"] == str(dtype)[6:]


@pytest.mark.parametrize("family", ["ling2", "deepseek-v3"])
def test_shards_and_one_file_hold_the_same_model(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    save_folder(model, tmp_path / "whole")
    save_folder(model, tmp_path / "shards", shard_bytes=20_000)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in whole.values())
    for file in files:
        tensors = load_file(tmp_path / "shards" / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == tensors.keys()
        assert sum(t.numel() * t.element_size() for t in tensors.values()) <= 20_000 or len(tensors) == 1
        assert all(torch.equal(tensors[name], whole[name]) for name in tensors)
    loaded = load_model(tmp_path / "shards").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_saving_anew_replaces_weights_of_any_layout_and_keeps_other_files(tmp_path: Path) -> None:
    save_folder(model_of("llama"), tmp_path, shard_bytes=10_000, card="old")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "tokenizer.json").write_text("{}")
    save_folder(model_of("llama", seed=1), tmp_path)
    files = set(contents(tmp_path))
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("README.md", "notes.txt", "tokenizer.json"),
    }
    loaded = load_model(tmp_path).state_dict()
    assert torch.equal(loaded["norm.weight"], model_of("llama", seed=1).state_dict()["norm.weight"])


def test_token_ids_are_written_for_generation_and_read_from_there(tmp_path: Path) -> None:
    model = model_of("llama")
    ids = {"bos_token_id": 1, "eos_token_id": (2, 5), "pad_token_id": 0}
    model.config = model.config.model_copy(update=ids)
    model.save(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {**ids, "eos_token_id": [2, 5]}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7], "temperature": 0.6}')
    assert load_model(tmp_path).config.eos_token_id == (2, 7)


# Bad checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(model_of("ling2"), tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(GrainlineError) as error:
        load_model(folder)
    return str(error.value)


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 1_000, -1])
def test_a_file_cut_short_is_named(kept: int, folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:kept])
    assert f"{folder / 'model.safetensors'}: cut short or damaged" in refusal(folder)


def test_tensors_that_do_not_fit_are_all_listed_with_their_shapes(folder: Path) -> None:
    rewrite(
        folder,
        **{
            "model.norm.weight": None,
            "model.layers.1.mlp.experts.7.up_proj.weight": None,
            "model.layers.0.mlp.gate_proj.weight": torch.zeros(47, 32),
            "model.layers.0.mlp.gate_proj.lora_A.weight": torch.zeros(4, 32),
            "model.layers.0.attention.rotary_emb.inv_freq": torch.zeros(2),
        },
    )
    said = refusal(folder)
    assert "2 missing: model.layers.1.mlp.experts.7.up_proj.weight [16, 32], model.norm.weight [32]." in said
    assert "1 not expected: model.layers.0.mlp.gate_proj.lora_A.weight [4, 32]." in said
    assert "1 of another shape: model.layers.0.mlp.gate_proj.weight is [47, 32], not [48, 32]." in said


def test_a_long_list_is_cut(folder: Path) -> None:
    names = [name for name in load_file(folder / "model.safetensors") if ".experts." in name]
    rewrite(folder, **dict.fromkeys(names))
    said = refusal(folder)
    assert f"{len(names)} missing: model.layers.1.mlp.experts.0.down_proj.weight" in said
    assert said.endswith(f"and {len(names) - 8} more.")


def test_another_size_in_config_json_is_named_by_its_tensors(folder: Path) -> None:
    tables = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tables | {"hidden_size": 64}))
    assert "model.norm.weight is [32], not [64]" in refusal(folder) or "of another shape" in refusal(folder)


def test_tied_models_may_store_the_head_if_it_is_the_same(tmp_path: Path) -> None:
    save_folder(model_of("llama"), tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(tmp_path, **{"lm_head.weight": embedding.clone()})
    load_model(tmp_path)
    rewrite(tmp_path, **{"lm_head.weight": embedding + 1})
    assert "lm_head.weight must equal model.embed_tokens.weight" in refusal(tmp_path)


def test_the_head_of_the_extra_layer_must_be_the_models(tmp_path: Path) -> None:
    save_folder(model_of("deepseek-v3"), tmp_path)
    rewrite(tmp_path, **{"model.layers.3.shared_head.head.weight": torch.zeros(64, 32)})
    assert "model.layers.3.shared_head.head.weight must equal lm_head.weight" in refusal(tmp_path)


class Bomb:
    """What a malicious pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("exploded",))


def test_pickles_are_refused_and_never_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Bomb()}, folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "pytorch_model.bin" in said
    assert "safetensors" in said
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_renamed_to_safetensors_is_damaged(folder: Path) -> None:
    torch.save({"model.norm.weight": torch.zeros(3)}, folder / "model.safetensors")
    assert "cut short or damaged" in refusal(folder)


def test_quantised_weights_are_refused(folder: Path) -> None:
    rewrite(folder, **{"model.layers.0.mlp.gate_proj.weight": torch.zeros(48, 32, dtype=torch.float8_e4m3fn)})
    assert "model.layers.0.mlp.gate_proj.weight (F8_E4M3)" in refusal(folder)


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd"])
def test_an_index_cannot_lead_out_of_the_folder(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert "outside the folder" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_folder(model_of("llama"), tmp_path, shard_bytes=10_000)
    second = next(tmp_path.glob("model-00002-of-*.safetensors"))
    second.unlink()
    assert f"{second}: no such file" in refusal(tmp_path)


# Saves that fail


def test_a_disk_that_is_too_small_is_said_before_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(GrainlineError, match=r"MB are needed and 0\.0 MB are free.*unchanged"):
        save_folder(model_of("ling2", seed=1), folder)
    assert contents(folder) == before
    assert not (folder / ".saving").exists()


@pytest.mark.parametrize("existing", [True, False])
def test_a_disk_that_fills_up_leaves_the_model_that_was_there(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if existing:
        save_folder(model_of("llama"), folder)
    before = contents(folder) if existing else None

    def half_written(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface, "save_file", half_written)
    with pytest.raises(GrainlineError, match=r"can't be saved: .*No space left on device"):
        save_folder(model_of("llama", seed=1), folder)
    assert folder.exists() == existing
    if existing:
        assert contents(folder) == before
        assert not (folder / ".saving").exists()


SAVE_FOREVER = """
import sys, torch
from pathlib import Path
from grainline.models.formats import huggingface
folder = Path(sys.argv[1])
model = huggingface.load_model(folder)
whole = huggingface.save_file
def slow(tensors, path, metadata):
    whole(tensors, path, metadata=metadata)
    print("writing", flush=True)
    import time; time.sleep(60)
huggingface.save_file = slow
with torch.no_grad():
    model.norm.weight.zero_()
model.save(folder)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_save_that_is_killed_leaves_the_model_that_was_there(how: signal.Signals, tmp_path: Path) -> None:
    save_folder(model_of("llama"), tmp_path)
    before = contents(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(how)
    process.wait(20)
    assert contents(tmp_path) == before
    assert (tmp_path / ".saving").exists() == (how == signal.SIGKILL)
    save_folder(model_of("llama", seed=1), tmp_path)  # what is left of the other doesn't hinder
    assert not (tmp_path / ".saving").exists()
    assert contents(tmp_path)["model.safetensors"] != before["model.safetensors"]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_save_cut_off_while_moving_is_finished_by_the_next_reader(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(model_of("llama"), tmp_path, shard_bytes=20_000)
    replaced = []

    def replace(source: Path, target: Path) -> None:
        if target.parent == tmp_path:
            if len(replaced) == moved:
                raise KeyboardInterrupt
            replaced.append(target)
        os.rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(staging.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save_folder(model_of("llama", seed=1), tmp_path)
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model_of("llama", seed=1).state_dict().items())
    assert set(contents(tmp_path)) == {"config.json", "generation_config.json", "model.safetensors"}


def test_others_may_read_what_is_saved(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(contents(folder), 0o644)


def test_a_path_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(GrainlineError, match="can't be saved"):
        save_folder(model_of("llama"), tmp_path / "model")


def test_a_state_dict_of_another_config_is_a_programming_error(tmp_path: Path) -> None:
    state = model_of("llama").state_dict()
    with pytest.raises(ValueError, match=r"norm\.weight"):
        write_folder(model_of("llama").config, {k: v for k, v in state.items() if k != "norm.weight"}, tmp_path)


def test_thousands_of_experts_take_no_thousands_of_milliseconds(tmp_path: Path) -> None:
    sizes = {**SIZES, "hidden_size": 8, "layers": 4}
    moe = {"experts": 256, "top_k": 8, "expert_hidden": 4}
    config = ModelConfig.model_validate({**sizes, "attention": GQA, "moe": moe})
    started = time.perf_counter()
    build(config).save(tmp_path)
    load_model(tmp_path)
    assert time.perf_counter() - started < 5
