"""report.html: one page that shows what a quickstart made, how good it is, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline._progress import duration
from grainline._words import count, join, percent, power, printable, size
from grainline.documents import write_atomically
from grainline.quickstart.facts import Evaluation, Facts, Outline, Share, read_evaluation, read_facts
from grainline.quickstart.figures import course_panels, loss_curves, part_dots, series, time_bars
from grainline.quickstart.loads import balance_loss, endings, has_loads, load_legend, load_panels
from grainline.quickstart.plot import DARK, LIGHT, Drawing, mark, stylesheet
from grainline.quickstart.prose import to_html
from grainline.quickstart.verdict import against, device, noun, verdict
from grainline.quickstart.words import bits

if TYPE_CHECKING:
    from rich.console import Group

NARROW = 340
"""Width of a figure on a phone; wide figures are drawn twice, so that their text stays readable."""


def render(folder: str | Path) -> Path:
    """Write `folder`/report.html from the files of a quickstart, and return its path.

    The page fetches nothing and runs no script. Raises GrainlineError that names a file which is missing or not whole.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write_atomically(path, page(read_facts(folder), folder))
    return path


def page(facts: Facts, folder: Path) -> str:
    """The page as text; `folder` is named in the commands, and its name is the run's."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return printable(value) if type(value) is str else value

    def figure(drawing: Drawing, narrow: Drawing | None = None) -> Markup:
        if narrow is None:
            return Markup(drawing.svg())
        return Markup(f'<div class="wide">{drawing.svg()}</div><div class="narrow">{narrow.svg()}</div>')

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    outline, evaluation = facts.outline, facts.evaluation
    panels = load_panels(facts)
    return environment.get_template("report.html.j2").render(
        name=folder.resolve().name,
        verdict=verdict(evaluation),
        lead=lead(outline),
        tiles=tiles(evaluation),
        table=part_table(outline, evaluation),
        held_out=size(sum(evaluation.bytes.values())),
        seed=outline.options.get("seed"),
        sizes=size_table(outline, evaluation),
        sparseness=_sparseness(outline),
        learned=learned(outline.budget),
        courses=[figure(panel) for panel in course_panels(facts)],
        loss_curves=figure(loss_curves(facts), loss_curves(facts, NARROW, 300)),
        part_dots=figure(part_dots(facts), part_dots(facts, NARROW)),
        load_panels=[figure(panel) for panel in panels],
        endings=endings(facts),
        balance_loss=balance_loss(facts),
        has_bias=facts.model is None or facts.model.moe is None or facts.model.moe.bias_balanced,
        load_legend=figure(load_legend(facts)) if has_loads(facts) else "",
        time_bars=figure(time_bars(facts), time_bars(facts, NARROW)) if outline.timings else "",
        total_time=duration(outline.seconds),
        samples=facts.samples,
        has_dense="dense" in facts.metrics,
        outline=outline,
        corpus=corpus_table(outline),
        licences=Markup(to_html(outline.licences)) if outline.licences else "",
        machine=machine_rows(outline),
        recipe=facts.recipe,
        config=facts.config,
        again=commands(outline, folder),
        light=Markup(stylesheet(LIGHT)),
        dark=Markup(stylesheet(DARK)),
    )


def summary(folder: str | Path) -> Group:
    """The verdict and the table of bits per byte, for `rich.console.Console().print`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    evaluation = read_evaluation(Path(folder))
    found = Table("part", box=None, pad_edge=False, title="bits per byte of held-out text, fewer is better")
    found.title_justify = "left"
    found.add_column("bytes", justify="right")
    for model in evaluation.models:
        found.add_column(Text(printable(evaluation.label(model))), justify="right")
    for part in evaluation.rows:
        best = evaluation.best(part)
        cells = [
            Text(bits(evaluation.value(model, part)), style="bold green" if model in best else "")
            for model in evaluation.models
        ]
        found.add_row(
            Text(printable(part)), f"{_bytes(evaluation, part):,}", *cells, style="bold" if part == "total" else None
        )
    return Group(Text(printable(verdict(evaluation)), style="bold"), Text(""), found)


def lead(outline: Outline) -> str:
    """What was done, in one sentence."""
    sizes, budget = outline.models["sparse"], outline.budget
    tokens = f" on {count(budget['tokens'])} tokens of text" if "tokens" in budget else ""
    active = f"{count(sizes['active'])} of which work on each token"
    return (
        f"In {duration(outline.seconds)} on {device(outline.machine)}, from raw text: a sparse language model of "
        f"{count(sizes['total'])} parameters, {active}, trained{tokens}, measured and ready to serve."
    )


def tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The headline figures: each model's total, and how the sparse model stands to it."""
    from markupsafe import Markup

    totals, best = evaluation.totals(), evaluation.best("total")
    found = []
    for model, value in totals.items():
        icon = f'<svg class="fig" viewBox="0 0 16 16" width="16" aria-hidden="true">{_icon(model, evaluation)}</svg>'
        note = "" if model == "sparse" else f"sparse needs {against(totals['sparse'], value)} this"
        found.append(
            {
                "icon": Markup(icon),
                "label": evaluation.label(model),
                "value": bits(value),
                "note": note or ("the best" if best == {"sparse"} else ""),
                "best": model in best,
            }
        )
    return found


def _icon(model: str, evaluation: Evaluation) -> str:
    return mark(series(model, evaluation), 8, 8, 5.5)


def part_table(outline: Outline, evaluation: Evaluation) -> dict[str, Any]:
    """Rows of the table by part; `best` marks the fewest bits of each row."""
    rows = []
    for part in evaluation.rows:
        best = evaluation.best(part)
        cells = [{"value": bits(evaluation.value(m, part)), "best": m in best} for m in evaluation.models]
        name = "all text" if part == "total" else outline.part_name(part)
        rows.append({"part": part, "name": name, "bytes": _bytes(evaluation, part), "cells": cells})
    return {"models": [evaluation.label(model) for model in evaluation.models], "rows": rows}


def _bytes(evaluation: Evaluation, part: str) -> int:
    return sum(evaluation.bytes.values()) if part == "total" else evaluation.bytes.get(part, 0)


SIZES = {
    "total": "all parameters",
    "active": "used for one token",
    "embedding": "of which embedding table",
    "head": "of which output layer",
    "mtp": "besides: layer for multi-token prediction (MTP), used in training only",
}


def size_table(outline: Outline, evaluation: Evaluation) -> dict[str, Any]:
    """Parameter counts, a row for each kind that any model has."""
    models = outline.models
    rows = [
        {"name": name, "cells": [f"{sizes[key]:,}" if key in sizes else "–" for sizes in models.values()]}
        for key, name in SIZES.items()
        if any(sizes.get(key) for sizes in models.values())
    ]
    return {"models": [noun(model, evaluation).removeprefix("the ") for model in models], "rows": rows}


def _sparseness(outline: Outline) -> str:
    sizes = outline.models["sparse"]
    return f"{percent(sizes['active'] / sizes['total'])} of its {count(sizes['total'])} parameters"


def learned(budget: Mapping[str, Any]) -> str:
    """The run in numbers, as far as the budget tells."""
    told = []
    if "steps" in budget and "batch_tokens" in budget:
        told.append(f"{budget['steps']:,} steps of {budget['batch_tokens']:,} tokens")
    if "training_bytes" in budget:
        times = f", read {_times(budget['epochs'])}" if "epochs" in budget else ""
        told.append(f"{size(budget['training_bytes'])} of training text{times}")
    if "flops_per_token" in budget and "tokens" in budget:
        flops = budget["flops_per_token"] * budget["tokens"]
        told.append(f"{power(flops)} floating-point operations in matrix products")
    return "; ".join(told)


def _times(epochs: float) -> str:
    return "once" if round(epochs, 2) == 1 else f"{epochs:.3g} times"


def corpus_table(outline: Outline) -> list[dict[str, str]]:
    """One row per part: name, and how much of it there is to learn from and held out."""
    found = []
    for part in dict.fromkeys(share.part for share in outline.corpus):
        of_part = [share for share in outline.corpus if share.part == part]
        train, held_out = (_sum([s for s in of_part if s.split == split]) for split in ("train", "valid"))
        found.append({"name": outline.part_name(part), "train": train, "valid": held_out})
    return found


def _sum(shares: list[Share]) -> str:
    documents = sum(share.documents for share in shares)
    return f"{documents:,} document{'' if documents == 1 else 's'}, {size(sum(share.bytes for share in shares))}"


def machine_rows(outline: Outline) -> list[tuple[str, str]]:
    """The machine in words, as far as it is known."""
    m = outline.machine
    rows = [("system", f"{m.get('system', '')} {m.get('architecture', '')}".strip())]
    if m.get("cpu"):
        features = ", ".join(m.get("cpu_features") or ())
        rows.append(("CPU", f"{m['cpu']} ({features})" if features else m["cpu"]))
    if m.get("usable_cores"):
        rows.append(("cores", f"{m['usable_cores']} usable of {m.get('physical_cores')}, {m.get('threads')} threads"))
    if m.get("memory_bytes"):
        rows.append(("memory", f"{m['memory_bytes'] / 2**30:.1f} GiB"))
    if m.get("flops_per_second"):
        rows.append(("measured", _rates(m["flops_per_second"])))
    for gpu in m.get("accelerators") or ():
        rates = f", {_rates(gpu['flops_per_second'])}" if gpu.get("flops_per_second") else ""
        rows.append(("accelerator", f"{gpu.get('name')}, {gpu.get('memory_bytes', 0) / 2**30:.1f} GiB{rates}"))
    rows.append(("software", f"grainline {outline.grainline}, torch {outline.torch}"))
    return [(key, value) for key, value in rows if value]


def _rates(flops_per_second: Mapping[str, float]) -> str:
    return join([f"{rate / 1e12:.3g} TFLOP/s in {dtype}" for dtype, rate in flops_per_second.items()])


def commands(outline: Outline, folder: Path) -> dict[str, str]:
    """Shell commands: the same quickstart again, the same training again, and what to do with the model."""
    words = ["grainline", "quickstart"]
    for option in ("minutes", "depth", "seed"):
        value = outline.options.get(option)
        if value is not None:
            words += [f"--{option}", str(value).removesuffix(".0")]
    words += [word for setting in outline.options.get("set") or () for word in ("--set", setting)]
    if not outline.is_builtin:
        words += ["--text", *outline.text]
    model, recipe = str(folder / "model"), str(folder / "recipe.toml")
    return {
        "quickstart": shlex.join([*words, "--out", f"{folder}-again"]),
        "train": shlex.join(["grainline", "train", recipe, "--out", f"{folder}-exactly"]),
        "generate": shlex.join(["grainline", "generate", model, "Once upon a time"]),
        "serve": shlex.join(["grainline", "serve", model]),
    }
