"""What is written is what is read again, in TOML and in JSON, for documents of every shape."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grainline.documents import Cluster, Document, ModelConfig, Plan, Recipe
from grainline.documents.cluster_checks import DTYPES

positive = st.floats(min_value=1e-12, max_value=1e18, allow_nan=False, allow_infinity=False)
share = st.floats(min_value=0.015625, max_value=0.96875)
count = st.integers(1, 10**15)
# Anything that UTF-8 can say, control characters and quotes included.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.lists(text, min_size=1, max_size=4, unique=True)


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    layers, groups, kv_heads = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    moe = {
        "experts": groups * draw(st.integers(2, 8)),
        "top_k": 2,
        "expert_hidden": draw(count),
        "groups": groups,
        "dense_layers": draw(st.lists(st.integers(0, layers - 1), unique=True)),
        "scale": draw(positive),
    }
    return {
        "family": draw(st.sampled_from(["ling2", "mixtral"])),
        "vocab_size": draw(count),
        "hidden_size": draw(count),
        "layers": layers,
        "ffn_hidden": draw(count),
        "norm_eps": draw(positive),
        "eos_token_id": draw(st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9))),
        "attention": {
            "heads": kv_heads * draw(st.integers(1, 4)),
            "kv_heads": kv_heads,
            "head_dim": 2 * draw(st.integers(1, 64)),
            "rope": {"theta": draw(positive)},
        },
        "moe": draw(st.none() | st.just(moe)),
    }


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    length, steps = draw(st.integers(8, 4096)), draw(st.integers(1, 10**6))
    return {
        "name": draw(text),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "model": draw(st.one_of(st.fixed_dictionaries({"depth": count}), st.fixed_dictionaries({"config": models()}))),
        "data": {"text": draw(st.lists(text)), "sequence_length": length, "validation_fraction": draw(share)},
        "training": {"steps": steps, "batch_tokens": length * draw(st.integers(1, 512))},
        "optimizer": {"betas": [draw(share), draw(share)], "weight_decay": draw(st.just(0.0) | positive)},
        "learning_rate": {"peak": draw(positive), "warmup_steps": draw(st.integers(0, steps - 1))},
    }


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, Any]:
    types, (switch, *nodes) = draw(names), draw(st.lists(text, min_size=2, max_size=4, unique=True))
    tier = st.fixed_dictionaries({"name": text, "capacity_bytes": count}, optional={"bytes_per_second": positive})
    rates = st.dictionaries(st.sampled_from(DTYPES), positive, max_size=3)
    device = {"kind": st.sampled_from(["cpu", "gpu"]), "flops_per_second": rates, "memory": st.lists(tier, max_size=2)}
    nic = st.fixed_dictionaries({"type": text, "count": count, "bytes_per_second": positive})
    figures = st.fixed_dictionaries({"latency_seconds": positive, "bytes_per_second": positive})
    inside = st.fixed_dictionaries({"sharing": st.sampled_from(["port", "pair", "all"]), "host": st.booleans()})
    square = [[draw(positive) for _ in nodes] for _ in nodes]
    return {
        "device_types": [draw(st.fixed_dictionaries({"name": st.just(name), **device})) for name in types],
        "nodes": [
            {
                "name": name,
                "devices": draw(st.dictionaries(st.sampled_from(types), count, min_size=1)),
                "nics": draw(st.lists(nic, max_size=1)),
                "site": draw(text),
            }
            for name in nodes
        ],
        "switches": [{"name": switch, **draw(st.fixed_dictionaries({}, optional={"bytes_per_second": positive}))}],
        "links": [
            *({"between": [name, switch], "type": draw(text), **draw(figures)} for name in nodes),
            *({"between": [name], **draw(figures), **draw(inside)} for name in nodes[:1]),
        ],
        "measured": draw(st.none() | st.just({"names": nodes, "latency_seconds": square, "bytes_per_second": square})),
    }


layout = st.fixed_dictionaries({}, optional={"data_parallel": count, "shard": st.sampled_from(["none", "full"])})
execution = st.fixed_dictionaries({}, optional={"threads": st.none() | count})
plans = st.fixed_dictionaries({"layout": layout, "execution": execution})
SHAPES = {ModelConfig: models(), Recipe: recipes(), Cluster: clusters(), Plan: plans}


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@pytest.mark.parametrize("document", list(SHAPES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(tmp_path: Path, document: type[Document], suffix: str, data: st.DataObject) -> None:
    written = document.parse(data.draw(SHAPES[document]))
    written.save(tmp_path / f"document{suffix}")
    assert document.load(tmp_path / f"document{suffix}") == written
