"""`grainline hardware measure`: measure this machine afresh and write it as a cluster document."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from grainline.documents import GrainlineError


def run(*, out: Path | None = None, name: str = "here", json: bool = False) -> int:
    """Measure matmul and copy rates of this machine's CPU and accelerators.

    Everything else that runs meanwhile makes the figures smaller, so leave the machine alone for these seconds.

      grainline hardware measure --out cluster.toml

    Args:
        out: write the machine as a cluster document (.toml or .json)
        name: what the document calls this machine
        json: print the cluster document as JSON
    """
    from rich.console import Console

    from grainline.cli.hardware import table
    from grainline.hardware import look

    if out is not None and out.suffix not in (".toml", ".json"):
        raise GrainlineError(f"--out {out}: the name must end in .toml or .json.")
    machine = look(fresh=True)
    if machine.torch is None:
        raise GrainlineError("measuring needs torch, which isn't installed. Install it: python -m pip install torch")
    cluster = machine.to_cluster(name)
    if json:
        print(json_module.dumps(cluster.tables(), indent=2))
    else:
        Console().print(table(machine))
    if out is not None:
        cluster.save(out)
        Console(stderr=True).print(f"Written to {out}.")
    return 0
