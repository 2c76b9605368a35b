"""What each of two ranks runs: started by test_two_ranks.py under torchrun, with a folder to work in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from grainline.documents import GrainlineError, Plan, Recipe
from grainline.train import train


def main(folder: Path) -> None:
    recipe = Recipe.load(folder / "recipe.toml")

    def run(name: str, shard: str, recipe: Recipe = recipe, micro: int = 2) -> None:
        execution = {"threads": 1, "micro_batch_sequences": micro}
        plan = Plan.parse({"layout": {"shard": shard, "data_parallel": 2}, "execution": execution})
        train(recipe, plan, out=folder / name, data=folder / "data", quiet=True)

    run("dp", "none")
    run("fsdp", "full")
    run("resumed-by-two", "full")
    uneven = Recipe.load(folder / "uneven.toml")
    run("dp-uneven", "none", uneven)
    said = []
    for wrong in (uneven, Recipe.load(folder / "too-large.toml")):
        try:
            run("wrong", "full", wrong)
        except GrainlineError as error:
            said.append((type(error).__name__, str(error)))
    (folder / f"said-{os.environ['RANK']}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
