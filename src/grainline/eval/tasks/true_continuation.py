"""A multiple-choice task made from any text: which of four passages really goes on from here?

The three others are cut from other documents of the same part (language, section), at word boundaries, to the same
length in characters: so neither the language nor the length gives the answer away, only what the text says.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from grainline.documents import GrainlineError
from grainline.eval.tasks.multiple_choice import MultipleChoice, Question

if TYPE_CHECKING:
    from grainline.data.readers import TextDocument

NAME = "true-continuation"


def true_continuation(
    documents: Iterable[TextDocument],
    *,
    per_part: int = 100,
    choices: int = 4,
    context_characters: int = 300,
    choice_characters: int = 60,
    seed: int = 0,
) -> MultipleChoice:
    """Up to `per_part` questions from each part; parts with fewer than `choices` long enough documents give none."""
    need = context_characters + choice_characters
    texts: dict[str, list[TextDocument]] = defaultdict(list)
    for document in documents:
        if len(document.text) >= 2 * need:
            texts[document.part].append(document)
    questions = []
    for part in sorted(texts):
        if len(texts[part]) >= choices:
            rng = random.Random(f"{seed}/{part}")  # of its own, so that one part's text changes no other's questions
            asked = _asked(texts[part], rng, choices, context_characters, choice_characters)
            questions += [question for question, _ in zip(asked, range(per_part), strict=False)]
    if not questions:
        raise GrainlineError(
            f"Task {NAME} needs {choices} documents or more of one part with {2 * need} characters or more each; "
            "there are not so many. Give more text, or make a task file."
        )
    return MultipleChoice(NAME, tuple(questions))


def _asked(
    documents: list[TextDocument], rng: random.Random, choices: int, context: int, length: int
) -> Iterator[Question]:
    """One question after another, each document taking its turn; a text is asked about once for its own length."""
    turns = [document for document in documents for _ in range(len(document.text) // (2 * (context + length)))]
    rng.shuffle(turns)
    for document in turns:
        border = _border(document.text, rng, context, length)
        others = rng.sample([d for d in documents if d is not document], choices - 1)
        wrong = [d.text[at : at + length] for d in others for at in [_border(d.text, rng, 0, length)]]
        right = document.text[border : border + length]
        if right in wrong:
            continue  # boilerplate: nothing could tell them apart
        answer = rng.randrange(choices)
        texts = (*wrong[:answer], right, *wrong[answer:])
        about = {"part": document.part, "source": document.source, "at": border}
        yield Question(document.text[border - context : border], texts, answer, about)


def _border(text: str, rng: random.Random, before: int, after: int) -> int:
    """A place with so many characters before and after it, moved on to a space where words have spaces between."""
    last = len(text) - after
    at = rng.randint(before, last)
    space = text.find(" ", at, min(at + 40, last + 1))
    return at if space < 0 else space
