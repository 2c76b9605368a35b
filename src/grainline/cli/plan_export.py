"""`grainline plan export`: a plan as the flags of an engine that people already use."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from grainline.documents import GrainlineError, nearest


def run(
    plan: Path,
    /,
    *,
    model: str,
    to: str,
    batch_tokens: str = "4M",
    length: int = 4096,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Write the flags that run a plan elsewhere. What the engine has no flag for is refused by name.

      grainline plan train Ling-flash-2.0 --cluster "8x(8xH100)@NDR" --save-plan plan.toml
      grainline plan export plan.toml --model Ling-flash-2.0 --to megatron --out train.sh

    Args:
        plan: a plan (.toml or .json)
        model: a listed name (grainline plan models), a config (.toml, .json), a folder, or ORG/NAME on the hub
        to: megatron, torchtitan or vllm
        batch_tokens: tokens of an optimiser step, as in grainline plan train
        length: tokens of a sequence
        out: write a shell script; default: print it
        json: print one JSON object
    """
    from grainline.cli.plan_train import tokens_of
    from grainline.documents import Plan, write_atomically
    from grainline.models.catalogue import config_of
    from grainline.plan.export import EXPORTS, Run

    if to not in EXPORTS:
        raise GrainlineError(
            f"--to {to}: there is no such export.{nearest(to, EXPORTS)} There are {', '.join(EXPORTS)}."
        )
    tokens = tokens_of(batch_tokens)
    found = EXPORTS[to](Run(Plan.load(plan), config_of(model), model, max(1, tokens // length), length))
    if out is not None:
        write_atomically(out, found.script())
        out.chmod(0o755)
        print(f"The script is in {out}.", file=sys.stderr)
    if json:
        told = {"program": found.program, "flags": found.flags, "remarks": found.remarks}
        print(json_module.dumps(told, indent=2))
    elif out is None:
        print(found.script(), end="")
    return 0
