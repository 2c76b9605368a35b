"""`grainline plan place`, and how a trace comes to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from grainline.cli import main
from grainline.documents import Plan
from grainline.documents.routing_trace import RoutingTrace

sys.path.insert(0, str(Path(__file__).parents[1] / "plan"))
from placement_cases import chain, trace_of

CLUSTER = ("--cluster", "2x(2xA100-80)@HDR")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    trace_of(chain(4, 8, 0), 4000, 1).save(path)
    return str(path)


def test_all_methods_side_by_side(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, page = tmp_path / "plan.toml", tmp_path / "p.html"
    more = ["--save-plan", str(plan), "--html", str(page), "--json"]
    assert main(["plan", "place", trace, *CLUSTER, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = found["methods"]
    assert list(methods) == ["contiguous", "load", "affinity", "moetuner"]
    assert found["tokens"] == {"decided by": 2000, "judged by": 2000}
    assert methods["affinity"]["same_rank"] > methods["contiguous"]["same_rank"]
    assert methods["moetuner"]["load"] < methods["contiguous"]["load"]
    assert found["chosen"] == min(methods, key=lambda name: methods[name]["seconds"])
    placement = Plan.load(plan).placement
    assert placement is not None
    assert placement.ranks == 4
    rows = [[tuple(ranks) for ranks in row] for row in methods[found["chosen"]]["holders"]]
    assert [list(row) for row in placement.layers.values()] == rows
    assert page.read_text().count("<svg") == 2


def test_as_a_table(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "place", trace, *CLUSTER, "--method", "affinity", "--runtime", "coherent"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Chosen: affinity (ExFlow)." in said
    assert "Decided by 2,000 tokens, judged by 2,000 others." in said
    assert "MoETuner" not in said


def test_what_cannot_be_had_is_left_out_by_name(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "place", trace, *CLUSTER, "--ranks", "3"]) == 0
    assert "affinity (ExFlow) is left out" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--ranks", "9"), "9 expert ranks: the cluster has 4 devices"),
        (("--method", "affinity", "--ranks", "3"), "8 don't divide among 3 ranks"),
        (("--cluster", "1x(16xA100-80)"), "16 expert ranks for 8 experts: some would have none"),
        (("--gap", "2"), "--gap 2.0: must lie between 0 and 1"),
        (("--budget", "0"), "--budget 0.0: must be positive"),
        (("--replicas", "-1"), "--replicas -1: must not be negative"),
        (("--html", "p.txt"), "name a file that ends in .html"),
        (("--dtype", "int3"), "no rate for int3"),
    ],
)
def test_what_is_refused(trace: str, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "place", trace, *CLUSTER, *more]) == 2
    assert words in capsys.readouterr().err


def test_traces_of_two_models_are_refused(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RoutingTrace.load(trace)
    RoutingTrace(other.expert_TLK, other.sequence_T, other.layers, other.config, "f" * 16).save(tmp_path / "o.npz")
    assert main(["plan", "place", trace, *CLUSTER, "--held-out", str(tmp_path / "o.npz")]) == 2
    assert "o.npz is a routing trace of another model" in capsys.readouterr().err
    assert main(["plan", "place", str(tmp_path / "none.npz"), *CLUSTER]) == 2
    assert "Record one with grainline plan trace" in capsys.readouterr().err


def test_a_thin_trace_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.npz"
    trace_of(chain(3, 8, 0), 200, 1).save(path)
    assert main(["plan", "place", str(path), *CLUSTER]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The trace is thin: 100 tokens decide, fewer than 50 per expert." in said


def test_a_run_and_its_model_are_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the trainer on held-out text, and by the verb: both of the same routers."""
    moe = 'moe = {experts = 4, top_k = 1, expert_hidden = 16, router = "softmax-topk"}'
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"""
        name = "r"
        [model.config]
        family = "grainline"
        vocab_size = 300
        hidden_size = 32
        layers = 2
        ffn_hidden = 64
        max_positions = 32
        attention = {{heads = 2, head_dim = 16}}
        {moe}
        [data]
        vocab_size = 300
        sequence_length = 32
        validation_fraction = 0.1
        max_bytes = 100000
        [training]
        steps = 2
        batch_tokens = 64
        [learning_rate]
        peak = 0.001
        """
    )
    run, first, second = tmp_path / "run", tmp_path / "a.npz", tmp_path / "b.npz"
    assert main(["train", str(recipe), "--out", str(run), "--routing-trace", str(first)]) == 0
    assert main(["plan", "trace", str(run), "--tokens", "300", "--out", str(second), "--json"]) == 0
    traces = [RoutingTrace.load(path) for path in (first, second)]
    traces[0].require_same_model(traces[1], "b.npz")
    assert traces[1].tokens == 300
    capsys.readouterr()
    assert main(["plan", "trace", str(run), "--tokens", "300", "--window", "99"]) == 2
    assert "a window of 99 tokens: must lie between 2 and the model's 32" in capsys.readouterr().err
    assert main(["train", str(recipe), "--out", str(run), "--routing-trace", "x.json"]) == 2
    assert "name a file that ends in .npz" in capsys.readouterr().err
