"""`grainline plan calibrate`: a cluster's rates, corrected by a run on it."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import tyro

from grainline.documents import Cluster, GrainlineError


def run(
    cluster: Path,
    /,
    *,
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Correct a cluster's rates by a few steps of a real run, so that the next plan is truer.

    Each device type becomes as fast as its ranks were; products and memory by one factor, links stay as they are. The
    run must have kept a step's timeline (grainline train --timeline).

      grainline hardware measure --out cluster.toml
      grainline train recipe.toml --pipeline 2 --timeline 5 --out runs/x
      grainline plan calibrate cluster.toml --from runs/x --out calibrated.toml

    Args:
        cluster: a .toml or .json file
        from_: the folder of a run on it
        out: write the corrected cluster (.toml or .json)
        json: print one JSON object
    """
    from grainline.cli.plan_compare import predicted_and_real
    from grainline.plan.calibration import calibrate, compare

    if from_ is None:
        raise GrainlineError("Name the run to calibrate by: --from runs/x.")
    known = Cluster.load(cluster)
    step, real = predicted_and_real(from_, str(cluster), from_ / "plan.toml")
    before = compare(step.timeline, real)
    _same_machine(known, from_)
    devices = [seat.device.type.name for seat in step.resolved.seats]
    corrected, factors = calibrate(known, before, devices, step.resolved.batch.compute, f"run {from_.name}")
    if out is not None:
        corrected.save(out)
        again, _ = predicted_and_real(from_, str(out), from_ / "plan.toml")
        after = compare(again.timeline, real)
        print(f"The corrected cluster is in {out}.", file=sys.stderr)
    told = {
        "factors": dict(factors),
        "error_before": before.error,
        "median_error_of_passes_before": before.median_error,
    }
    if out is not None:
        told |= {"error_after": after.error, "median_error_of_passes_after": after.median_error}
    if json:
        print(json_module.dumps(told, indent=2))
        return 0
    for name, factor in factors.items():
        print(f"{name}: {factor:.3g} times as fast as predicted.")
    print(f"Step: {before.error:+.1%} off before{f', {after.error:+.1%} after' if out is not None else ''}.")
    print(
        f"Passes, median: {before.median_error:.1%} off before"
        f"{f', {after.median_error:.1%} after' if out is not None else ''}."
    )
    if out is None:
        print("Keep the corrected cluster with --out calibrated.toml.")
    return 0


def _same_machine(cluster: Cluster, run: Path) -> None:
    """Raise GrainlineError where the run's machine isn't one of the cluster's devices."""
    try:
        machine = json_module.loads((run / "run.json").read_text(encoding="utf-8"))["machine"]
        found = [machine["cpu"], *(a["name"] for a in machine.get("accelerators", ()))]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a run's folder of before, which doesn't say
    names = [device.name for device in cluster.device_types]
    if not set(found) & set(names):
        raise GrainlineError(
            f"The run was on another machine ({', '.join(found)}) than the cluster has ({', '.join(names)}). "
            "Calibrate the cluster that it ran on."
        )
