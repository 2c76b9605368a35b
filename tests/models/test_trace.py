"""Recorded routing is what routers chose; the file keeps it, and refuses what isn't one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe
from grainline.documents.routing_trace import RoutingTrace
from grainline.models.build import build
from grainline.models.moe import MoeLayer
from grainline.models.trace import router_fingerprint, trace_of


def config(**moe: object) -> ModelConfig:
    return ModelConfig(
        family="grainline",
        vocab_size=64,
        hidden_size=32,
        layers=4,
        ffn_hidden=64,
        max_positions=16,
        init_std=0.2,
        mtp_depth=0,
        attention=Attention(heads=2, head_dim=16),
        moe=Moe.model_validate({"experts": 4, "top_k": 2, "expert_hidden": 16, "dense_layers": (0, 2), **moe}),
    )


SEQUENCES = [list(range(i, i + 5 + i)) for i in range(6)]


@pytest.mark.parametrize("moe", [{}, {"zero": 1, "constant": 2}, {"reuse": 2}, {"router": "gating-residual"}], ids=str)
def test_traced_experts_are_the_best_scored(moe: dict[str, object]) -> None:
    """Against scoring each token's router input again."""
    model = build(config(**moe), seed=0)
    seen: list[list[torch.Tensor]] = [[], []]
    for i, layer in enumerate((1, 3)):
        ffn = model.blocks[layer].ffn
        assert isinstance(ffn, MoeLayer)
        ffn.router.logits_before = ffn.router.logits  # type: ignore[attr-defined]

        def keep(x, carry, router=ffn.router, into=seen[i]):  # type: ignore[no-untyped-def]
            found = router.logits_before(x, carry)
            into.append(found[0])
            return found

        ffn.router.logits = keep  # type: ignore[attr-defined]
    trace = trace_of(model, SEQUENCES, 30)
    assert trace.tokens == 30
    assert np.bincount(trace.sequence_T).tolist() == [5, 6, 7, 8, 4]
    assert trace.layers == (1, 3)
    pool = trace.experts
    for row, logits in enumerate(seen):
        for token, scores in enumerate(torch.cat(logits)):
            best = {int(e) for e in scores.topk(2).indices if e < pool}
            assert set(trace.expert_TLK[token, row].tolist()) - {-1} == best
    assert trace.banks == ((0, 0) if "reuse" in moe else (0, 1))


def test_file_keeps_everything(tmp_path: Path) -> None:
    model = build(config(), seed=0)
    trace = trace_of(model, SEQUENCES, 100)
    assert trace.tokens == sum(map(len, SEQUENCES))
    trace.save(tmp_path / "t.npz")
    again = RoutingTrace.load(tmp_path / "t.npz")
    assert (again.expert_TLK == trace.expert_TLK).all()
    assert (again.sequence_T == trace.sequence_T).all()
    assert (again.layers, again.config, again.router) == (trace.layers, trace.config, router_fingerprint(model))
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]
    first, second = trace.halves()
    assert set(first.sequence_T) == {0, 2, 4}
    assert set(second.sequence_T) == {1, 3, 5}
    trace.require_same_model(again, "t.npz")


def test_another_model_is_refused() -> None:
    traces = [trace_of(build(config(), seed=seed), SEQUENCES, 20) for seed in (0, 1)]
    with pytest.raises(GrainlineError, match=r"other\.npz is a routing trace of another model: it has routers with"):
        traces[0].require_same_model(traces[1], "other.npz")
    fewer = trace_of(build(config(experts=2), seed=0), SEQUENCES, 20)
    with pytest.raises(GrainlineError, match="it has experts 2 and not 4"):
        traces[0].require_same_model(fewer, "other.npz")


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    trace = trace_of(build(config(), seed=0), SEQUENCES, 20)
    path = tmp_path / "t.npz"
    with pytest.raises(DocumentError, match=r"no such file\. Record one with grainline plan trace"):
        RoutingTrace.load(path)
    with pytest.raises(DocumentError, match=r"ends in \.npz"):
        trace.save(tmp_path / "t.json")
    for content in (b"", b"hello", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(DocumentError, match="is not a routing trace"):
            RoutingTrace.load(path)
    np.savez(path, header=np.array(["{}"], dtype=object), expert_TLK=np.zeros((1, 1, 1)), allow_pickle=True)
    with pytest.raises(DocumentError, match="is not a routing trace"):
        RoutingTrace.load(path)
    trace.expert_TLK[3, 1, 0] = 4  # after the check
    trace.save(path)
    with pytest.raises(DocumentError, match="names expert 4, and the model's are 0 to 3"):
        RoutingTrace.load(path)


def test_one_sequence_cannot_be_halved() -> None:
    trace = trace_of(build(config(), seed=0), SEQUENCES[:1], 20)
    with pytest.raises(GrainlineError, match="is of one sequence"):
        trace.halves()


def test_a_dense_model_has_none() -> None:
    dense = build(config().model_copy(update={"moe": None}), seed=0)
    with pytest.raises(GrainlineError, match="the model has no experts"):
        trace_of(dense, SEQUENCES, 10)
