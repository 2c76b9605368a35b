"""How true the serving cost model is: its ops against the measured tables that the package aiconfigurator ships.

aiconfigurator (NVIDIA, Apache 2.0) keeps what TensorRT-LLM, vLLM and SGLang took for single ops on several GPUs. For
each device, engine and table this asks the cost model for the same ops, first with the catalogue's data sheets alone,
then after a calibration by a part of the rows, and gives the median relative error, its 90 % quantile and Spearman's
rank correlation. Held out are, once, 80 % of the rows at random; once, whole shapes (weights' sizes, heads, experts; of
collectives, sizes), a fifth of them. Calibration is per engine, table, dtype and kernel.

The A100's tables were looked at when the round numbers of `plan.serving.speed.ASSUMED` were chosen, and no other
device's; the summary without calibration is of the others.

    pip download --no-deps aiconfigurator-core==0.12.0 && unzip -q aiconfigurator_core-*.whl -d tables
    python benchmarks/bench_serving_truth.py tables/aiconfigurator_core/systems/data [--rows 3000] [--devices l40s …]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

from grainline.hardware import processor
from grainline.plan.serving import ops
from grainline.plan.serving.calibrate import Sample, calibrated
from grainline.plan.serving.ops import Family, Op
from grainline.plan.serving.speed import listed_speed

RESULT = Path(__file__).parent / "results" / "serving_truth.json"
DEVICES = {"a100_sxm": "A100-80", "h100_sxm": "H100", "h200_sxm": "H200", "b200_sxm": "B200", "l40s": "L40S"}
SEEN = "a100_sxm"  # whose tables were looked at
TABLES = {
    "gemm": "products",
    "context_attention": "prefill attention",
    "generation_attention": "decode attention",
    "context_mla": "prefill attention (MLA)",
    "generation_mla": "decode attention (MLA)",
    "moe": "experts",
    "custom_allreduce": "all-reduce in one kernel",
    "nccl": "NCCL collectives",
}
COLLECTIVES = ("custom_allreduce", "nccl")
PRODUCTS = {  # dtype as the tables name it → that of products, and that of weights
    "bfloat16": ("bfloat16", "bfloat16"),
    "float16": ("bfloat16", "bfloat16"),
    "fp8": ("float8", "float8"),
    "fp8_block": ("float8", "float8"),
    "int8_wo": ("bfloat16", "int8"),
    "int4_wo": ("bfloat16", "int4"),
    "w4afp8": ("float8", "int4"),
    "w4a16_mxfp4": ("bfloat16", "int4"),
}
CACHE = {"bfloat16": "bfloat16", "float16": "bfloat16", "fp8": "float8"}
NCCL: dict[str, Family] = {
    "all_gather": "all-gather",
    "all_reduce": "all-reduce",
    "alltoall": "all-to-all",
    "reduce_scatter": "reduce-scatter",
}
MLA = {"key": 192, "value": 128, "latent": 512, "row": 576}  # DeepSeek-V3's, whose tables these are
MOST_TESTED = 1500
HELD_OUT = 0.8
SHAPES_HELD_OUT = 0.2


@dataclass(frozen=True)
class Row:
    """A measured op, and what it is calibrated with."""

    op: Op
    seconds: float
    group: tuple[str, ...]  # dtype and kernel

    @property
    def shape(self) -> tuple[float, ...]:
        """What is held out whole."""
        sizes = self.op.sizes
        return {"product": sizes[1:], "experts": sizes[1:], "prefill": sizes[3:], "decode": sizes[2:]}.get(
            self.op.family, sizes[:1]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tables", type=Path, help="aiconfigurator_core/systems/data")
    parser.add_argument("--rows", type=int, default=3000, help="of each table at most, drawn at random")
    parser.add_argument("--devices", nargs="*", default=list(DEVICES))
    parser.add_argument("--ops", type=Path, help="write one engine's rows for grainline plan fleet --ops, and stop")
    parser.add_argument("--engine", default="vllm", help="with --ops: whose")
    arguments = parser.parse_args()
    if not any((arguments.tables / device).is_dir() for device in arguments.devices):
        print(f"{arguments.tables} has no folder {arguments.devices}: see the head of this file", file=sys.stderr)
        return 1
    if arguments.ops is not None:
        write_ops(arguments.ops, arguments.tables, arguments.devices, arguments.engine, arguments.rows)
        return 0
    rows = []
    for device in arguments.devices:
        for table in TABLES:
            for engine, version, path in latest(arguments.tables / device, table):
                found = read(path, table, device, arguments.rows)
                if found:
                    rows.append(judged(device, table, engine, version, found))
                    print(line(rows[-1]), flush=True)
    result = {
        "package": "aiconfigurator-core 0.12.0",
        "machine": {"python": platform.python_version(), "cpu": processor.name()},
        "rows_of_a_table_at_most": arguments.rows,
        "looked_at": SEEN,
        "summary": summary(rows),
        "tables": rows,
    }
    for name, figures in result["summary"].items():  # type: ignore[attr-defined]
        print(f"{name}: {json.dumps(figures)}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def latest(folder: Path, table: str) -> Iterator[tuple[str, str, Path]]:
    """The newest version's file of each engine."""
    by_engine: dict[str, list[Path]] = defaultdict(list)
    for path in folder.glob(f"*/*/*/{table}_perf.parquet"):
        by_engine[path.parts[-3]].append(path)
    for engine, paths in sorted(by_engine.items()):
        newest = max(paths, key=lambda path: Version(path.parts[-2]))
        yield engine, newest.parts[-2], newest


def read(path: Path, table: str, device: str, most: int) -> list[Row]:
    """Rows that the model can be asked for, in random order."""
    import pyarrow.parquet as parquet

    raw = parquet.read_table(path).to_pylist()
    if table == "moe":
        # Balanced loads, as the model has them; where none were measured, all experts on one device.
        even = [row for row in raw if row["distribution"] == "balanced"]
        raw = even or [row for row in raw if row["moe_ep_size"] == 1]
    if table == "custom_allreduce":
        raw = [row for row in raw if "eager" not in row["kernel_source"]]  # those time the launch from Python
    random.Random(0).shuffle(raw)
    found = []
    rates = listed_speed(DEVICES[device]).flops_per_second
    for row in raw:
        op = op_of(table, row)
        if op is not None and (op.dtype in rates or not op.flops) and row["latency"] > 0:
            named = (
                "gemm_dtype",
                "moe_dtype",
                "attn_dtype",
                "kv_cache_dtype",
                "mla_dtype",
                "kernel_source",
                "nccl_dtype",
            )
            group = (*(str(row[key]) for key in named if row.get(key)), str(op.ranks))
            found.append(Row(op, row["latency"] / 1e3, group))
        if len(found) == most:
            break
    return found


def write_ops(out: Path, tables: Path, devices: list[str], engine: str, most: int) -> None:
    """As the file that `plan.serving.measured_ops` reads; latent attention has no place there."""
    lines = ["type,family,dtype,weights,sizes,seconds"]
    for device in devices:
        for table in (name for name in TABLES if "mla" not in name and name != "nccl"):
            for who, _, path in latest(tables / device, table):
                for row in read(path, table, device, most) if who == engine else ():
                    if "fp8_block" not in row.group:
                        op = row.op
                        sizes = " ".join(f"{size:g}" for size in op.sizes)
                        lines.append(f"{DEVICES[device]},{op.family},{op.dtype},{op.weights},{sizes},{row.seconds:.4g}")
    out.write_text("\n".join(lines) + "\n")
    print(f"{len(lines) - 1} ops in {out}")


def op_of(table: str, row: Mapping[str, Any]) -> Op | None:
    """The op that a row measured; None for dtypes that the model doesn't know."""
    match table:
        case "gemm":
            if row["gemm_dtype"] not in PRODUCTS:
                return None
            return ops.product(row["m"], row["n"], row["k"], *PRODUCTS[row["gemm_dtype"]])
        case "context_attention":
            dtype, dim = CACHE[row["attn_dtype"]], row["head_dim"]
            sizes = row["batch_size"], row["isl"], row.get("step") or 0
            heads = row["num_heads"], row["num_key_value_heads"]
            return ops.prefill(
                *sizes, *heads, dim, dim, dtype, CACHE[row["kv_cache_dtype"]], row.get("window_size") or None
            )
        case "generation_attention":
            dim, heads = row["head_dim"], (row["num_heads"], row["num_key_value_heads"])
            cache, window = CACHE[row["kv_cache_dtype"]], row.get("window_size") or None
            return ops.decode(row["batch_size"], row["step"] + 1, *heads, dim, dim, "bfloat16", cache, window)
        case "context_mla":
            sizes, heads = (row["batch_size"], row["isl"], row.get("step") or 0), row["num_heads"]
            return ops.prefill(*sizes, heads, heads, MLA["key"], MLA["value"], "bfloat16", CACHE[row["kv_cache_dtype"]])
        case "generation_mla":
            sizes = row["batch_size"], row["step"] + 1
            cache = CACHE[row["kv_cache_dtype"]]
            return ops.decode(*sizes, row["num_heads"], 1, MLA["row"], MLA["latent"], "bfloat16", cache, latent=True)
        case "moe":
            if row["moe_dtype"] not in PRODUCTS:
                return None
            hidden = row["inter_size"] / row["moe_tp_size"]
            sizes = row["num_tokens"], row["hidden_size"], hidden, row["num_experts"], row["topk"]
            return ops.experts(*sizes, *PRODUCTS[row["moe_dtype"]], local=1 / row["moe_ep_size"])
        case "custom_allreduce":
            return ops.collective("all-reduce", row["message_size"] * 2, row["num_gpus"])  # elements of 16 bits
    return ops.collective(
        NCCL[row["op_name"]], row["message_size"] * (2 if row["nccl_dtype"] == "half" else 1), row["num_gpus"]
    )


def judged(device: str, table: str, engine: str, version: str, rows: list[Row]) -> dict[str, Any]:
    """Figures of one table."""
    from scipy.stats import spearmanr

    sheet = [listed_speed(DEVICES[device], row.op.ranks).seconds(row.op) for row in rows]
    true = [row.seconds for row in rows]
    error = np.abs(np.array(sheet) / true - 1)
    shapes = sorted({row.shape for row in rows})
    random.Random(1).shuffle(shapes)
    out = set(shapes[: max(1, round(SHAPES_HELD_OUT * len(shapes)))])
    cut = round((1 - HELD_OUT) * len(rows))
    splits = {
        "random rows": (rows[:cut], rows[cut:]),
        "whole shapes": ([r for r in rows if r.shape not in out], [r for r in rows if r.shape in out]),
    }
    return {
        "device": device,
        "table": table,
        "engine": engine,
        "version": version,
        "rows": len(rows),
        "data_sheet": {**figures(error), "rank_correlation": float(spearmanr(sheet, true).statistic)},
        "calibrated": {name: after(device, *split) for name, split in splits.items()},
    }


def after(device: str, learned: list[Row], held_out: list[Row]) -> dict[str, float]:
    """Error on held-out rows of a model calibrated by the others."""
    by_group: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for row in learned:
        by_group[row.group].append(Sample(row.op, row.seconds))
    speeds = {}
    for group, samples in by_group.items():
        speeds[group] = calibrated(listed_speed(DEVICES[device], samples[0].op.ranks), samples)
    error = []
    for row in held_out[:MOST_TESTED]:
        speed = speeds.get(row.group) or listed_speed(DEVICES[device], row.op.ranks)
        error.append(abs(speed.seconds(row.op) / row.seconds - 1))
    return {"learned": len(learned), "held_out": len(error), **figures(np.array(error))}


def figures(error: np.ndarray[Any, Any]) -> dict[str, float]:
    return {"median_error": float(np.median(error)), "p90_error": float(np.quantile(error, 0.9))}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over tables, each of which counts once: of ops and of collectives."""
    found = {}
    for name, wanted in (("operators", False), ("collectives", True)):
        some = [row for row in rows if (row["table"] in COLLECTIVES) == wanted]
        unseen = [row for row in some if row["device"] != SEEN] or some
        if not some:
            continue
        found[name] = {
            "tables": len(some),
            "rows": sum(row["rows"] for row in some),
            "data_sheet_median_error": median(row["data_sheet"]["median_error"] for row in unseen),
            "data_sheet_rank_correlation": median(row["data_sheet"]["rank_correlation"] for row in unseen),
            **{
                f"calibrated_median_error_{split.replace(' ', '_')}": median(
                    row["calibrated"][split]["median_error"] for row in some
                )
                for split in ("random rows", "whole shapes")
            },
            "calibrated_tables_within_10_percent": sum(
                row["calibrated"]["random rows"]["median_error"] <= 0.1 for row in some
            ),
        }
    return found


def median(values: Iterator[float]) -> float:
    return float(np.median(list(values)))


def line(row: Mapping[str, Any]) -> str:
    sheet, after = row["data_sheet"], row["calibrated"]
    return (
        f"{row['device']:9}{TABLES[row['table']]:26}{row['engine']:8}{row['version']:11}{row['rows']:6} rows   "
        f"data sheet {sheet['median_error']:4.0%}, rank {sheet['rank_correlation']:.3f}   calibrated "
        f"{after['random rows']['median_error']:6.1%} (shapes {after['whole shapes']['median_error']:6.1%})"
    )


if __name__ == "__main__":
    sys.exit(main())
