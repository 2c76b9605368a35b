"""Labelled texts: JSON lines, CSV and TSV, or passages of the built-in corpus, in an order of their own."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grainline.data import builtin
from grainline.data.split import is_held_out, position
from grainline.documents import GrainlineError, nearest
from grainline.documents.classification import ClassificationRecipe, Labelled

PASSAGE_CHARACTERS = 400
"""Of a built-in passage, about: paragraphs are put together until they have so many."""

BUILTIN_LABELS: dict[str, Callable[[str, str], str]] = {
    "work": lambda source, part: source.split("/")[0],
    "language": lambda source, part: part,
}
"""What a built-in passage can be labelled by: the work it is from (a novel, a Bible, a handbook …), or its language."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Example:
    """`group` is what is held out as a whole: the document that a passage is from."""

    text: str
    label: str
    group: str


@dataclass(frozen=True)
class Examples:
    """What is learned from and what is held out, and the labels in order; none in a regression."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    labels: tuple[str, ...]

    def target(self, example: Example) -> float:
        """The label's place, or the number itself."""
        return float(self.labels.index(example.label)) if self.labels else float(example.label)

    @property
    def fingerprint(self) -> str:
        """Changes with any text, label or side."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.held_out):
            digest.update(f"{example.text}\0{example.label}\n".encode())
        return f"{len(self.train)} {digest.hexdigest()}"


def read_examples(recipe: ClassificationRecipe) -> Examples:
    """All of them, split by the hash of their document, as the training of language models does.

    Raises GrainlineError with file and line for what can't be read, for fewer than two labels, and for labels that are
    no numbers in a regression.
    """
    data = recipe.data
    found = sorted({e for source in data.text for e in _of(source, data)}, key=lambda e: (position(e.text), e.label))
    found = found[: data.max_examples]
    train = tuple(e for e in found if not is_held_out(e.group, data.validation_fraction))
    held_out = tuple(e for e in found if is_held_out(e.group, data.validation_fraction))
    if len(train) < recipe.training.batch or not held_out:
        raise GrainlineError(
            f"data: {len(train)} texts to learn from and {len(held_out)} held out; a batch has "
            f"{recipe.training.batch}. Give more text, or change training.batch or data.validation_fraction."
        )
    if recipe.task == "regression":
        for example in found:
            if not _is_number(example.label):
                raise GrainlineError(
                    f"data: task is 'regression', and the label {example.label!r} of {example.text[:40]!r} is no "
                    "number. Set task = 'classification', or data.label_key."
                )
        return Examples(train, held_out, ())
    labels = tuple(sorted({e.label for e in train}))
    if len(labels) < 2:
        raise GrainlineError(f"data: all texts are labelled {labels[0]!r}; a classifier needs two labels at least.")
    unseen = sorted({e.label for e in held_out} - set(labels))
    if unseen:
        raise GrainlineError(f"data: no text to learn from is labelled {unseen[0]!r}, one that is held out is.")
    return Examples(train, held_out, labels)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _of(source: str, data: Labelled) -> Iterator[Example]:
    if source == "builtin":
        yield from _builtin(data)
        return
    path = Path(source).expanduser()
    if not path.is_file():
        raise GrainlineError(f"{path}: no such file. data.text names .jsonl, .csv and .tsv files, or 'builtin'.")
    if path.suffix not in (".jsonl", *SEPARATORS):
        raise GrainlineError(f"{path}: labelled texts are read from .jsonl, .csv and .tsv files.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = _json_lines(file, path) if path.suffix == ".jsonl" else _table(file, path)
            for line, row in rows:
                yield _example(row, data, f"{path}, line {line}")
        except UnicodeDecodeError:
            raise GrainlineError(f"{path}: is not UTF-8 text.") from None


def _json_lines(file: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            try:
                row = json.loads(text)
            except ValueError as error:
                raise GrainlineError(f"{path}, line {line}: is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise GrainlineError(f"{path}, line {line}: must be an object with a text and a label.")
            yield line, row


def _table(file: Iterator[str], path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader(file, delimiter=SEPARATORS[path.suffix])
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def _example(row: dict[str, object], data: Labelled, where: str) -> Example:
    for key in (data.text_key, data.label_key):
        if row.get(key) is None:
            raise GrainlineError(f"{where}: has no '{key}'.{nearest(key, row)} See data.text_key and data.label_key.")
    text, label = str(row[data.text_key]), str(row[data.label_key])
    if not text.strip():
        raise GrainlineError(f"{where}: '{data.text_key}' is empty; leave the line out.")
    return Example(text, label, text)


def _builtin(data: Labelled) -> Iterator[Example]:
    by = "work" if data.label_key == "label" else data.label_key
    if by not in BUILTIN_LABELS:
        raise GrainlineError(f"data.label_key: builtin passages have no '{by}'.{nearest(by, BUILTIN_LABELS)}")
    unknown = [part for part in data.languages if part not in builtin.parts()]
    if unknown:
        raise GrainlineError(f"data.languages: '{unknown[0]}' isn't one of {', '.join(builtin.parts())}.")
    for text, source, part in builtin.texts():
        if not data.languages or part in data.languages:
            for passage in passages(text):
                yield Example(passage, BUILTIN_LABELS[by](source, part), text)


def passages(text: str, characters: int = PASSAGE_CHARACTERS) -> Sequence[str]:
    """A document's paragraphs, put together until they have so many characters; what is left at the end is dropped."""
    found, piece = [], ""
    for paragraph in text.split("\n\n"):
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
        if len(piece) >= characters:
            found.append(piece)
            piece = ""
    return found
