"""What saving and resuming cost: the stall of an asynchronous checkpoint, and the time from `train` to the first step.

Runs of the quickstart's model on the built-in corpus take turns, saving every few steps and never. Printed as shares of
a step's time: the stall that a save causes, the slowdown of the steps while it is being written, and a resume.

    python benchmarks/bench_checkpoint.py [--depth 4] [--steps 40] [--every 5] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch

from grainline.documents import Recipe
from grainline.exhibits.harness import estimate, ratio
from grainline.hardware import processor
from grainline.train.metrics import read_metrics
from grainline.train.run import train

RESULT = Path(__file__).parent / "results" / "checkpoint.json"


def recipe(depth: int, steps: int, every: int) -> Recipe:
    return Recipe.parse(
        {
            "model": {"depth": depth},
            "data": {"max_bytes": 1_000_000, "validation_fraction": 0.05},
            "training": {"steps": steps, "batch_tokens": 2048},
            "learning_rate": {"peak": 0.01},
            "validation": {"every": 10_000, "max_sequences": 8},
            "checkpoint": {"every": every, "keep": 2},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints of the run that saves")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    step_seconds: dict[str, list[float]] = {"saving": [], "never": []}
    stalls, resumes = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        for turn in range(max(5, arguments.rounds)):
            for name, every in (("saving", arguments.every), ("never", 10_000)):
                out = Path(folder) / f"{name}{turn}"
                train(recipe(arguments.depth, arguments.steps, every), out=out, data=data, quiet=True)
                lines = read_metrics(out / "metrics.jsonl")[2:]
                step_seconds[name].append(statistics.fmean(line["step_seconds"] for line in lines))
                if name == "saving":
                    stalls += [line["checkpoint_seconds"] for line in lines if line["checkpoint_seconds"] > 0]
            saving = recipe(arguments.depth, arguments.steps, arguments.every)
            resumes.append(_resume(Path(folder) / f"saving{turn}", data, saving))
        size = sum(f.stat().st_size for f in (Path(folder) / "saving0" / "checkpoints").rglob("*") if f.is_file())
    step = statistics.median(step_seconds["never"])
    stall, slower, resume = estimate(stalls), ratio(step_seconds["saving"], step_seconds["never"]), estimate(resumes)
    print(f"step: {step:.3f} s; checkpoint: {size / 1e6:.0f} MB")
    print(f"stall per save: {stall} s, {stall.value / step:.3f} of a step")
    print(f"steps while saving every {arguments.every}: {slower} × those of a run that never saves")
    print(f"from train() to the first step of a resumed run: {resume} s, {resume.value / step:.1f} steps")
    result = {
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "cpu": processor.name()},
        "step_seconds": step,
        "checkpoint_bytes": size,
        "stall_share_of_step": stall.value / step,
        "step_ratio_while_saving": slower.value,
        "step_ratio_error_bar": slower.error_bar,
        "resume_seconds": resume.value,
        "resume_in_steps": resume.value / step,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def _resume(out: Path, data: Path, recipe: Recipe) -> float:
    """Seconds from a call of `train` to its first step, when the last checkpoint and the model are gone."""
    *_, last = sorted((out / "checkpoints").glob("step-*"))
    shutil.rmtree(last)
    shutil.rmtree(out / "model")
    metrics, final = out / "metrics.jsonl", recipe.training.steps
    runner = threading.Thread(target=train, args=(recipe,), kwargs={"out": out, "data": data, "quiet": True})
    start = time.perf_counter()
    runner.start()
    while runner.is_alive():  # the log is cut back to the checkpoint, then grows again
        lines = read_metrics(metrics)
        if lines and lines[-1]["step"] < final and lines[-1]["step"] % recipe.checkpoint.every == 1:
            break
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    runner.join()
    return seconds


if __name__ == "__main__":
    main()
