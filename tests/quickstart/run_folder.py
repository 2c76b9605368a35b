"""A quickstart's folder as its stages leave it, with made-up but plausible figures."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from grainline.models.dial import config_for_depth
from grainline.models.formats import config_to_hf

BUILTIN = ("en", "de", "fr", "es", "ru", "ja", "zh", "fa", "code")
LEVEL = {"en": 2.1, "de": 2.0, "fr": 2.0, "es": 2.15, "ru": 1.25, "ja": 1.7, "zh": 2.3, "fa": 1.2, "code": 1.8}
GAIN = {"sparse": 0.93, "dense": 0.97, "n-gram": 1.06, "xz": 1.42}
LABELS = {
    "sparse": "sparse, 0.92M active",
    "dense": "dense, 0.92M active",
    "n-gram": "order-5 n-gram",
    "xz": "xz -9",
}
RECIPE = """\
schema_version = 1
name = "quickstart"
seed = 7

[model]
depth = 4

[training]
steps = 400
batch_tokens = 4096

[learning_rate]
schedule = "wsd"
peak = 0.0031
"""
SAMPLES = (
    ("It is a truth universally", " acknowledged, that a single man of the\nhouse was to be a little of the", "en"),
    ("در این فصل", " به نصب و پیکربندی سیستم می‌پردازیم و سپس", "fa"),
    ("システムの", "設定ファイルは、パッケージの中にあります。", "ja"),
    ("def main(", "self, name, value=None):\n    if not self.name:\n        return None\n", "code"),
)


def make(
    folder: Path,
    *,
    parts: tuple[str, ...] = BUILTIN,
    text: tuple[str, ...] = ("builtin",),
    models: tuple[str, ...] = tuple(GAIN),
    sparse_layers: int = 4,
    experts: int = 32,
    steps: int = 400,
    loads: bool = True,
    gain: dict[str, float] | None = None,
    samples: tuple[tuple[str, str, str], ...] = SAMPLES,
    licences: str | None = "# Where the built-in corpus comes from\n\nJane Austen: public domain.",
    seed: int = 0,
) -> Path:
    """Write all files; with every option left alone, those of the default quickstart."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    gain = {model: (gain or GAIN)[model] for model in models}
    bytes_of = {part: draw.randrange(20_000, 140_000) for part in parts}
    table = {
        model: {p: LEVEL.get(p, 1.9) * factor * draw.uniform(0.96, 1.04) for p in parts}
        for model, factor in gain.items()
    }
    for row in table.values():
        row["total"] = sum(row[p] * bytes_of[p] for p in parts) / sum(bytes_of.values())
    evaluation = {
        "parts": list(parts),
        "bytes": bytes_of,
        "bits_per_byte": table,
        "labels": {m: LABELS[m] for m in models},
    }
    write(folder / "evaluation.json", evaluation)
    write(folder / "quickstart.json", outline(parts, text, bytes_of, models, steps, licences, draw))
    write(
        folder / "samples.json", [{"prompt": p, "text": t, "part": q, "seed": i} for i, (p, t, q) in enumerate(samples)]
    )
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    metrics(folder / "metrics.jsonl", steps, table["sparse"]["total"], sparse_layers, experts, loads, draw)
    if "dense" in models:
        path = folder / "baselines" / "dense" / "metrics.jsonl"
        metrics(path, steps, table["dense"]["total"], 0, 0, False, draw)
    config = config_for_depth(max(1, sparse_layers), 4096, 256)
    assert config.moe is not None
    moe = config.moe.model_copy(update={"experts": experts or 32, "top_k": min(config.moe.top_k, experts or 32)})
    write(folder / "model" / "config.json", config_to_hf(config.model_copy(update={"moe": moe})))
    return folder


def write(path: Path, values: Any) -> None:
    """Plain JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=True, indent=1), encoding="utf-8")


def outline(
    parts: tuple[str, ...],
    text: tuple[str, ...],
    bytes_of: dict[str, int],
    models: tuple[str, ...],
    steps: int,
    licences: str | None,
    draw: random.Random,
) -> dict[str, Any]:
    """quickstart.json."""
    sizes = {
        "sparse": {"total": 3_412_096, "active": 924_160, "embedding": 524_288, "head": 524_288, "mtp": 731_264},
        "dense": {"total": 921_088, "active": 921_088, "embedding": 524_288, "head": 524_288, "mtp": 114_304},
    }
    corpus = [{"part": p, "documents": b // 9000 + 1, "bytes": b, "split": "valid"} for p, b in bytes_of.items()]
    corpus += [{"part": p, "documents": b // 200, "bytes": b * 45, "split": "train"} for p, b in bytes_of.items()]
    return {
        "schema_version": 1,
        "grainline": "0.1.0",
        "torch": "2.13.0+cpu",
        "options": {"minutes": 5, "depth": 4, "text": list(text), "seed": 7},
        "machine": {
            "system": "Linux",
            "architecture": "x86_64",
            "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz",
            "cpu_features": ["avx2", "avx512", "amx-bf16"],
            "physical_cores": 2,
            "logical_cores": 4,
            "usable_cores": 2,
            "threads": 2,
            "memory_bytes": 8 << 30,
            "memory_available_bytes": 6 << 30,
            "disk_path": "/home/somebody/secret",
            "disk_free_bytes": 1 << 40,
            "torch": "2.13.0+cpu",
            "accelerators": [],
            "flops_per_second": {"float32": 1.3e11, "bfloat16": 9.1e11},
            "memory_bytes_per_second": 1.9e10,
            "disturbed": False,
        },
        "budget": {
            "sequence_length": 256,
            "depth": 4,
            "steps": steps,
            "batch_tokens": 4096,
            "tokens": steps * 4096,
            "flops_per_token": 6.1e6,
            "learning_rate": 0.0031,
            "seconds_per_step": 0.31,
            "training_bytes": 18_224_113,
            "epochs": 0.31,
        },
        "corpus": corpus,
        "models": {m: sizes[m] for m in models if m in sizes},
        "timings": [
            {"stage": "look at the machine", "seconds": 1.2},
            {"stage": "read text, train the tokenizer, pack", "seconds": 14.8},
            {"stage": "train the sparse model", "seconds": draw.uniform(115, 130)},
            {"stage": "train the dense baseline", "seconds": 71.9},
            {"stage": "evaluate", "seconds": 43.1},
            {"stage": "n-gram and xz baselines", "seconds": 22.7},
            {"stage": "samples and report", "seconds": 6.4},
        ],
        "licences": licences,
    }


def metrics(path: Path, steps: int, final: float, layers: int, experts: int, loads: bool, draw: random.Random) -> None:
    """Lines as training writes them: a loss that falls to about `final`, and routers that come into balance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    liking = [[draw.gauss(0, 1.1) for _ in range(experts)] for _ in range(layers)]
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        loss = final - 0.02 + 1.9 * math.exp(-step / 14) + 0.45 * math.exp(-4 * done) * (1 - done)
        line: dict[str, Any] = {
            "step": step,
            "tokens": step * 4096,
            "loss": loss * 2.4,
            "bits_per_byte": loss + draw.gauss(0, 0.05),
            "mtp_loss": None,
            "z_loss": 0.0,
            "lr": 0.0031 * min(1, step / 20, (1 - done) / 0.3 + 1e-3),
            "grad_norm": 0.4 + 2.5 * math.exp(-step / 25) + abs(draw.gauss(0, 0.06)),
            "tokens_per_second": 13_000 * draw.uniform(0.93, 1.04),
            "mfu": 0.31,
            "step_seconds": 0.31,
            "memory_bytes": 1 << 29,
            "seconds": step * 0.31,
        }
        if layers:
            calm = math.exp(-3.5 * done)
            counts = [
                [max(0, round(512 * math.exp(like * calm + draw.gauss(0, 0.12)))) for like in row] for row in liking
            ]
            line["imbalance"] = [max(row) * len(row) / sum(row) for row in counts]
            line["entropy"] = [math.log(experts) * (0.6 + 0.3 * calm + draw.uniform(0, 0.02)) for _ in counts]
            line["balance_loss"] = 1 + 0.3 * calm
            if loads and step % max(1, steps // 100) == 0:
                line["loads"] = counts
        if step % max(1, steps // 8) == 0:
            line["validation_loss"] = loss * 2.4
            line["validation_bits_per_byte"] = loss + 0.02 + draw.gauss(0, 0.004)
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
