"""What no published family can say is saved in grainline's own layout, whole, and comes back the same."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from expert_cases import CASES, NEEDS, WITH

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe
from grainline.models import formats
from grainline.models.build import build
from grainline.models.formats.folder import read_config
from grainline.models.formats.huggingface import load_model, save_folder

SIZES: dict[str, Any] = {"vocab_size": 24, "hidden_size": 12, "layers": 3, "ffn_hidden": 16, "mtp_depth": 1}
IDS = {"bos_token_id": 1, "eos_token_id": (2, 3)}


def config(kind: Any, features: Any, **sizes: Any) -> ModelConfig:
    moe = {"experts": 8, "top_k": 2, "expert_hidden": 6, "router": kind, **NEEDS.get(kind, {})}
    for feature in features:
        moe |= WITH[feature]
    attention = Attention(heads=2, head_dim=6)
    return ModelConfig(**{**SIZES, **IDS, **sizes}, attention=attention, moe=Moe(**moe))


def saved(made: ModelConfig, folder: Path) -> Any:
    model = build(made, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    model.save(folder)
    return model


@pytest.mark.parametrize(
    ("kind", "features"), CASES, ids=lambda of: of if isinstance(of, str) else "+".join(of) or "plain"
)
def test_every_model_comes_back_bit_equal(kind: Any, features: Any, tmp_path: Path) -> None:
    made = config(kind, features)
    model = saved(made, tmp_path / "a")
    again = load_model(tmp_path / "a")
    state, found = model.state_dict(), again.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[name], found[name]) for name in state)
    assert formats.canonical(again.config.model_copy(update={"family": made.family})) == formats.canonical(made)
    ids_BS = torch.randint(24, (2, 7), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(model.eval()(ids_BS), again(ids_BS))
    again.save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]


def test_the_log_says_what_the_family_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        saved(config("expert-choice", ("reuse",)), tmp_path)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "moe.router: family 'ling2' can't say 'expert-choice'." in line
    assert "moe.reuse: family 'ling2' can't say 2." in line
    assert line.endswith("saved in grainline's own layout, which other engines don't read.")
    tables = json.loads((tmp_path / "config.json").read_text())
    assert tables["model_type"] == "grainline"
    assert tables["model"]["moe"]["router"] == "expert-choice"
    assert (tables["bos_token_id"], tables["eos_token_id"]) == (1, [2, 3])
    assert "eos_token_id" not in tables["model"]
    caplog.clear()
    load_model(tmp_path).save(tmp_path / "again")
    assert not caplog.records


def test_what_a_family_can_say_stays_in_it(tmp_path: Path) -> None:
    saved(config("sigmoid-topk", ("bias_balanced", "groups")), tmp_path)
    assert read_config(tmp_path).family == "ling2"


def test_a_folder_in_parts_and_its_generation_config(tmp_path: Path) -> None:
    model = build(config("gating-residual", ("costless",)), seed=4)
    save_folder(model, tmp_path, shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load_model(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert read_config(tmp_path).stop_token_ids == (5,)


def test_biases_are_float32_whatever_the_rest_is(tmp_path: Path) -> None:
    build(config("token-rounding", ("bias_balanced",)), dtype=torch.bfloat16).save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    wide = {name for name, tensor in stored.items() if tensor.dtype == torch.float32}
    assert wide == {name for name in stored if name.endswith("bias_E")} != set()
    assert load_model(tmp_path).blocks[0].ffn.router.bias_E.dtype == torch.float32  # type: ignore[union-attr]


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    saved(config("expert-choice", ()), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["blocks.1.ffn.router.extra"] = stored.pop("blocks.1.ffn.router.weight_ED")
    stored["norm.weight"] = torch.ones(13)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(GrainlineError) as caught:
        load_model(tmp_path)
    said = str(caught.value)
    assert "1 missing: blocks.1.ffn.router.weight_ED [8, 12]" in said
    assert "1 not expected: blocks.1.ffn.router.extra [8, 12]" in said
    assert "norm.weight is [13], not [12]" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "model: is required: the tables of a model config"),
        ({"model": {"layers": 2}}, "vocab_size"),
        ({"eos_token_id": "end"}, "eos_token_id"),
    ],
)
def test_a_config_that_is_not_whole(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    saved(config("expert-choice", ()), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(DocumentError, match=said) as caught:
        read_config(tmp_path)
    assert str(path) in str(caught.value)
