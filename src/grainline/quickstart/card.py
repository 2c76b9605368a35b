"""The model card of a quickstart's model: README.md as the Hugging Face hub reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from grainline._progress import duration
from grainline._words import count, printable
from grainline.quickstart.facts import read_evaluation, read_outline
from grainline.quickstart.report import corpus_table, learned, part_table, size_table
from grainline.quickstart.verdict import device, verdict


def model_card(folder: str | Path, name: str | None = None) -> str:
    """Markdown with front matter, from quickstart.json and evaluation.json in `folder`.

    `name` is the model's, by default the folder's. A language is claimed only for the parts of the built-in corpus: of
    anybody else's text it isn't known. Raises GrainlineError if one of the files is missing or not whole.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(folder)
    outline, evaluation = read_outline(folder), read_evaluation(folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, escaped by `md` where text is somebody else's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escaped, "quoted": lambda text: json.dumps(text)}
    settings = [printable(setting) for setting in outline.options.get("set") or ()]
    config = folder / "model" / "config.json"
    tables = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    parts = dict.fromkeys(share.part for share in outline.corpus)
    sources = ", ".join(outline.text)
    return environment.get_template("card.md.j2").render(
        name=name or folder.resolve().name,
        is_builtin=outline.is_builtin,
        languages=[part for part in parts if part != "code"] if outline.is_builtin else [],
        licence="other" if outline.is_builtin else "unknown",
        duration=duration(outline.seconds),
        device=device(outline.machine),
        verdict=verdict(evaluation),
        sizes=size_table(outline, evaluation)["rows"],
        settings=settings,
        model_type=tables.get("model_type", "bailing_moe_v2"),
        learned=learned(outline.budget),
        origin="The corpus that ships with grainline." if outline.is_builtin else f"Text from {sources}.",
        corpus=corpus_table(outline),
        licences=demoted(printable(outline.licences)) if outline.licences else "",
        has_dense="dense" in evaluation.models,
        table=part_table(outline, evaluation),
        total=count(outline.models["sparse"]["total"]),
        context=outline.budget.get("sequence_length"),
        version=outline.grainline,
        torch=outline.torch,
    )


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also in a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", " ".join(printable(text).split()))


def demoted(markdown: str) -> str:
    """Headings two levels down, so that they fall under the card's own."""
    return re.sub(r"^(#{1,4}) ", r"##\1 ", markdown, flags=re.MULTILINE)
