"""The outcome of a quickstart in one sentence, computed from its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grainline._words import join, percent
from grainline.quickstart.facts import Evaluation
from grainline.quickstart.words import bits

NOUNS = {"sparse": "the sparse model", "dense": "the dense model", "n-gram": "the n-gram model", "xz": "xz"}


def noun(model: str, evaluation: Evaluation) -> str:
    """How a model is called in a sentence."""
    return NOUNS.get(model) or evaluation.label(model)


def verdict(evaluation: Evaluation) -> str:
    """Who needs the fewest bits per byte on held-out text, and how the sparse model stands to each of the others."""
    totals = evaluation.totals()
    sparse = totals["sparse"]
    others = sorted((model for model in totals if model != "sparse"), key=lambda model: totals[model])
    told = join([f"{against(sparse, totals[model])} {noun(model, evaluation)}" for model in others])
    best = evaluation.best("total")
    if not others:
        return f"The sparse model needs {bits(sparse)} bits per byte of text it never saw."
    if best == {"sparse"}:
        return f"The sparse model wins: it needs {bits(sparse)} bits per byte of text it never saw, {told}."
    if "sparse" in best:
        tied = join([noun(model, evaluation) for model in totals if model in best and model != "sparse"])
        return f"The sparse model ties with {tied}: it needs {bits(sparse)} bits per byte of text it never saw, {told}."
    winner = noun(others[0], evaluation)
    return (
        f"{winner.replace('the ', 'The ', 1)} wins with {bits(totals[others[0]])} bits per byte of text it never saw; "
        f"the sparse model needs {bits(sparse)}, {told}."
    )


def device(machine: Mapping[str, Any]) -> str:
    """What did the computing, of a Machine as plain values."""
    accelerators = machine.get("accelerators") or ()
    if accelerators:
        return str(accelerators[0].get("name", "an accelerator"))
    cpu, cores = machine.get("cpu") or "an unknown CPU", machine.get("usable_cores")
    return f"{cores} core{'' if cores == 1 else 's'} of {cpu}" if cores else str(cpu)


def against(ours: float, theirs: float) -> str:
    """`3.1 % fewer than`, `as many as`, `3.1 % more than`."""
    if bits(ours) == bits(theirs):
        return "as many as"
    change = ours / theirs - 1
    return f"{percent(change)} {'fewer' if change < 0 else 'more'} than"
