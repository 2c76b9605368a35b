"""A trained classifier, taken from its run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError
from grainline.documents.classification import ClassificationRecipe
from grainline.models.heads.encoders import Classifier
from grainline.train.checkpoint import load
from grainline.train.classify.build import build_classifier, pretrained
from grainline.train.classify.evaluate import answers
from grainline.train.classify.tokens import tokenise
from grainline.train.files import RunFolder
from grainline.train.state import model_tensors


@dataclass(frozen=True)
class Said:
    """Of one text: the label, or the number; the expert that said it, and the gate's probability of each."""

    answer: str | float
    expert: str
    gate: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What answers texts."""

    recipe: ClassificationRecipe
    classifier: Classifier
    tokenizer: Tokenizer
    labels: tuple[str, ...]

    @classmethod
    def load(cls, out: str | Path) -> Self:
        """From the folder of a run that came to its end."""
        files = RunFolder(Path(out), keep=2)
        if not files.result.is_file():
            raise GrainlineError(f"{out}: holds no classifier that came to its end. Train it: grainline classify.")
        recipe, labels = ClassificationRecipe.load(files.recipe), tuple(files.read_run()["labels"])
        tokenizer = Tokenizer.load(files.data)
        classifier = build_classifier(recipe, tokenizer, pretrained(recipe)[0], max(1, len(labels)))
        last = json.loads(files.result.read_text(encoding="utf-8"))["steps"]
        load(files.checkpoints.at(last), model_tensors(classifier))
        return cls(recipe, classifier.eval(), tokenizer, labels)

    def __call__(self, texts: Sequence[str]) -> list[Said]:
        """What is said of each text."""
        tokens = tokenise(texts, [0.0] * len(texts), self.tokenizer, self.recipe.data.max_tokens)
        out_NC, gate_NE, expert_N = answers(self.classifier, tokens)
        names = [f"{kind} {i}" for i, kind in enumerate(self.recipe.head.experts)]
        return [
            Said(
                self.labels[int(out_C.argmax())] if self.labels else float(out_C[0]),
                names[int(expert)],
                dict(zip(names, gate_E.tolist(), strict=True)),
            )
            for out_C, gate_E, expert in zip(out_NC, gate_NE, expert_N, strict=True)
        ]
