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
    to: str = "megatron",
    model: str | None = None,
    batch_tokens: str | None = None,
    length: int | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Write the flags that run a plan elsewhere. What the engine has no flag for is refused by name.

      grainline plan train Ling-flash-2.0 --cluster "8x(8xH100)@NDR" --save-plan plan.toml
      grainline plan export plan.toml --to megatron --out train.sh

    Args:
        plan: a plan (.toml or .json)
        to: megatron, torchtitan or vllm
        model: a listed name, a config, a folder, or ORG/NAME on the hub; default: what the plan was made for
        batch_tokens: tokens of an optimiser step; default: what the plan was made for
        length: tokens of a sequence; default: what the plan was made for
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
    document = Plan.load(plan)
    made = document.made_for
    model = model or (made.model if made else None)
    tokens = tokens_of(batch_tokens) if batch_tokens else made.batch_tokens if made else None
    length = length or (made.sequence_length if made else None)
    if model is None or tokens is None or length is None:
        raise GrainlineError(f"{plan}: it doesn't say what it was made for: give --model, --batch-tokens and --length.")
    found = EXPORTS[to](Run(document, config_of(model), model, max(1, tokens // length), length))
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
