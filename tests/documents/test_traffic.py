"""Traffic: histograms, lists of requests, published summaries, and what is refused."""

import math
from pathlib import Path
from statistics import NormalDist

import pytest

from grainline.documents import DocumentError
from grainline.documents.traffic import INPUT_EDGES, Traffic
from grainline.documents.traffic_presets import PRESETS
from grainline.documents.traffic_requests import read_requests

EXAMPLES = Path(__file__).parents[2] / "examples" / "traffic"
TABLES = {"rate": 16, "input_edges": [250, 1000], "output_edges": [100, 500], "shares": [[0.25, 0.125], [0.375, 0.25]]}


def test_buckets_of_a_histogram() -> None:
    buckets = Traffic.parse(TABLES).buckets()
    assert [b.share for b in buckets] == [0.25, 0.125, 0.375, 0.25]
    assert [b.high for b in buckets] == [(250, 100), (250, 500), (1000, 100), (1000, 500)]
    assert buckets[3].low == (250, 100)
    assert buckets[3].name == "250–1,000 in, 100–500 out"
    assert buckets[3].size("upper") == (1000, 500)
    assert buckets[0].size("mean") == (126, 51)


def test_empty_buckets_are_left_out() -> None:
    assert len(Traffic.parse({**TABLES, "shares": [[0.5, 0], [0, 0.5]]}).buckets()) == 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_can_be_read_and_written(path, tmp_path) -> None:
    traffic = Traffic.load(path)
    assert traffic.requests_per_second > 0
    assert sum(b.share for b in traffic.buckets()) == pytest.approx(1)
    traffic.save(tmp_path / "again.toml")
    assert Traffic.load(tmp_path / "again.toml") == traffic


def test_a_list_of_requests_becomes_a_histogram(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,10,5\n1,250,100\n2,251,100\n3,99999,7\n")
    traffic = Traffic.load(path)
    assert traffic.requests_per_second == pytest.approx(1.0)
    assert traffic.input_edges == (*INPUT_EDGES, 99999)
    assert {b.high: b.share for b in traffic.buckets()} == {
        (25, 25): 0.25,
        (250, 100): 0.25,
        (500, 100): 0.25,
        (99999, 25): 0.25,
    }


def test_json_lines_with_the_apis_names_and_a_told_rate(tmp_path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"prompt_tokens": 30, "completion_tokens": 4}\n\n{"prompt_tokens": 40, "completion_tokens": 4}\n'
    )
    (tmp_path / "t.toml").write_text('requests = "log.jsonl"\nrate = 3.0\nprefix_hit_rate = 0.5\n')
    traffic = Traffic.load(tmp_path / "t.toml")
    assert (traffic.rate, traffic.prefix_hit_rate) == (3.0, 0.5)
    assert [b.share for b in traffic.buckets()] == [1.0]
    with pytest.raises(DocumentError, match="don't tell a rate"):
        Traffic.load(tmp_path / "log.jsonl")
    assert Traffic.load(tmp_path / "log.jsonl", ["rate=2.5"]).rate == 2.5


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_mean_or_median(name) -> None:
    preset = PRESETS[name]
    edges = [round(1.02**i) for i in range(1, 700)]
    spans = [(a, b) for a, b in zip([0, *edges], edges, strict=False) if a < b]
    for of_output, published in ((False, preset.input_tokens), (True, preset.output_tokens)):
        shares = preset.inside(spans, of_output=of_output)
        assert sum(shares) == pytest.approx(1)
        if preset.figure == "median":
            half = next(high for high, seen in zip([b for _, b in spans], _sums(shares), strict=True) if seen >= 0.5)
            assert half == pytest.approx(published, rel=0.05)
        else:
            mean = sum(share * (low + high) / 2 for share, (low, high) in zip(shares, spans, strict=True))
            assert mean == pytest.approx(published, rel=0.05)


def _sums(values):
    total = 0.0
    for value in values:
        total += value
        yield total


def test_a_mix_weighs_its_parts() -> None:
    mixed = Traffic.parse({"rate": 1, "mix": [{"preset": "chat", "share": 3}, {"preset": "code", "share": 1}]})
    above = sum(b.share for b in mixed.buckets() if b.low[0] >= 1000)
    shares = [1 - NormalDist(_mu(PRESETS[n]), PRESETS[n].sigma[0]).cdf(math.log(1000)) for n in ("chat", "code")]
    assert above == pytest.approx(0.75 * shares[0] + 0.25 * shares[1], abs=2e-3)


def _mu(preset):
    return math.log(preset.input_tokens) - (preset.sigma[0] ** 2 / 2 if preset.figure == "mean" else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "rate 0: traffic without requests needs no devices"),
        ({"rate": -3}, "it must be positive"),
        ({"shares": [[0.5, 0.1], [0.1, 0.1]]}, "shares sum to 0.8, not to 1; with normalise = true"),
        ({"shares": [[1.0]]}, "shares are 1 × 1, and the edges make 2 × 2 buckets"),
        ({"shares": [[0, 0], [0, 0]]}, "shares must have a positive sum"),
        ({"input_edges": [1000, 250]}, "input_edges must rise"),
        ({"mix": [{"preset": "chat"}]}, "give one of shares, requests and mix"),
        ({"shares": [], "mix": [{"preset": "chatter"}]}, "mix has no preset 'chatter': there are chat"),
        ({"shares": []}, "not none"),
        ({"prefix_hit_rate": 1.0}, "prefix_hit_rate"),
    ],
)
def test_bad_traffic_is_named(changes, message) -> None:
    with pytest.raises(DocumentError, match=message):
        Traffic.parse({**TABLES, **changes})


def test_shares_are_scaled_where_that_is_asked_for() -> None:
    traffic = Traffic.parse({**TABLES, "shares": [[2, 1], [3, 2]], "normalise": True})
    assert [b.share for b in traffic.buckets()] == [0.25, 0.125, 0.375, 0.25]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "input_tokens,output_tokens\n", "holds no requests"),
        ("a.csv", "input_tokens\n3\n", "line 2: has no output_tokens"),
        ("a.csv", "input_tokens,output_tokens\n3,many\n", "line 2: numbers of tokens"),
        ("a.csv", "input_tokens,output_tokens\n3,0\n", "line 2: a request has at least one token"),
        ("a.jsonl", "{}\n[3]\n", "line 1: has no input_tokens and no output_tokens"),
        ("a.jsonl", "{\n", "line 1 is not well-formed JSON"),
        ("a.jsonl", "[3]\n", "line 1 holds no JSON object"),
    ],
)
def test_bad_lists_are_named_by_line(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DocumentError, match=message):
        read_requests(tmp_path / name)


def test_a_list_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DocumentError, match="can't be read"):
        read_requests(tmp_path / "none.csv")
