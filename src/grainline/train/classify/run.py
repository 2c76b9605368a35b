"""`classify`: a recipe and a folder in; a trained classifier, its scores, and everything to go on from, out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline._progress import counts
from grainline.data.tokenizer import Tokenizer
from grainline.documents import GrainlineError, override, write_atomically
from grainline.documents.classification import ClassificationRecipe
from grainline.parallel import Ranks, join_ranks
from grainline.train.classify.build import build_classifier, pretrained, tokenizer_of
from grainline.train.classify.evaluate import Scores, evaluate
from grainline.train.classify.examples import Examples, read_examples
from grainline.train.classify.loop import Loop
from grainline.train.classify.tokens import tokenise
from grainline.train.files import OTHERWISE, RunFolder, differing_keys
from grainline.train.progress import Reporter

FREE = ("schema_version", "name", "checkpoint")
"""What may change when a run is resumed."""


@dataclass(frozen=True)
class ClassifyResult:
    """What came of a run, and where it is."""

    out: Path
    steps: int
    seconds: float
    scores: Scores

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"out": str(self.out), "steps": self.steps, "seconds": self.seconds, "scores": self.scores.as_dict()}


def classify(
    recipe: ClassificationRecipe | str | Path,
    *,
    out: str | Path,
    resume: bool = True,
    overrides: Iterable[str] = (),
    quiet: bool = False,
) -> ClassifyResult:
    """Train what `recipe` asks for, score it on what is held out, and keep everything in `out`.

    A run that was interrupted goes on from its last checkpoint, and one that came to its end is returned as it is;
    without `resume`, `out` is cleared first. Under torchrun every rank calls this, and takes its share of each batch.
    Raises GrainlineError for what a person can mend, and TrainingInterrupted after Ctrl-C, with the run saved.
    """
    if isinstance(recipe, ClassificationRecipe):
        recipe = ClassificationRecipe.parse(override(recipe.tables(), overrides), where="recipe")
    else:
        recipe = ClassificationRecipe.load(recipe, overrides)
    ranks = join_ranks("cpu")
    if ranks.world > recipe.training.batch:
        raise GrainlineError(f"training.batch {recipe.training.batch} can't be shared by {ranks.world} processes.")
    files = RunFolder(Path(out), keep=2)
    with ExitStack() as stack:
        if ranks.is_first:
            stack.enter_context(files.locked())
        done = ranks.on_first(lambda: _claim(recipe, files, resume))
        if done is not None:
            return done
        return _run(recipe, files, ranks, quiet or not ranks.is_first, stack)


def _claim(recipe: ClassificationRecipe, files: RunFolder, resume: bool) -> ClassifyResult | None:
    """Take the folder; the result, if the run came to its end before."""
    if not resume:
        files.clear()
    elif files.recipe.is_file():
        before, now = (_binding(each) for each in (ClassificationRecipe.load(files.recipe), recipe))
        keys = differing_keys(before, now)
        if keys:
            raise GrainlineError(
                f"{files.out} holds a run of another recipe. What differs: {'; '.join(keys)}. "
                f"Resume with the recipe it was started with, {OTHERWISE}"
            )
        if files.result.is_file():
            found = json.loads(files.result.read_text(encoding="utf-8"))
            return ClassifyResult(files.out, found["steps"], found["seconds"], Scores.from_dict(found["scores"]))
    return None


def _run(recipe: ClassificationRecipe, files: RunFolder, ranks: Ranks, quiet: bool, stack: ExitStack) -> ClassifyResult:
    examples = read_examples(recipe)
    steps = recipe.training.epochs * (len(examples.train) // recipe.training.batch)
    if recipe.learning_rate.warmup_steps >= steps:
        raise GrainlineError(
            f"learning_rate.warmup_steps {recipe.learning_rate.warmup_steps} must be fewer than the {steps} steps of "
            f"{counts(recipe.training.epochs, 'epoch')}."
        )
    report = Reporter(steps, files.log if ranks.is_first else None, quiet=quiet, in_words=_describe)
    stack.callback(report.close)
    model, own = pretrained(recipe)
    ranks.on_first(lambda: _keep_tokenizer(recipe, files, own, examples, report))
    tokenizer = Tokenizer.load(files.data)
    sides = (examples.train, examples.held_out)
    train, held_out = (
        tokenise([e.text for e in of], [examples.target(e) for e in of], tokenizer, recipe.data.max_tokens)
        for of in sides
    )
    classifier = build_classifier(recipe, tokenizer, model, max(1, len(examples.labels)))
    loop = Loop(recipe, files, ranks, report, classifier, train, steps)
    ranks.on_first(lambda: _write_down(recipe, files, examples))
    loop.run(stack)
    scores = evaluate(classifier, held_out, examples.labels)
    result = ClassifyResult(files.out, steps, loop.seconds, scores)
    ranks.on_first(lambda: write_atomically(files.result, json.dumps(result.as_dict(), indent=2) + "\n"))
    report.say(f"Done: {scores} on {len(held_out.ids):,} held-out texts. All of it is in {files.out}.")
    return result


def _keep_tokenizer(
    recipe: ClassificationRecipe, files: RunFolder, own: Tokenizer | None, examples: Examples, report: Reporter
) -> None:
    if not (files.data / "tokenizer.json").is_file():
        tokenizer_of(recipe, own, examples, report.say).save(files.data)


def _write_down(recipe: ClassificationRecipe, files: RunFolder, examples: Examples) -> None:
    """Keep what the run is made of; GrainlineError where checkpoints here are of other texts."""
    before = files.read_run()
    if files.checkpoints.steps() and before and before["text"] != examples.fingerprint:
        raise GrainlineError(f"{files.out} holds a run on other texts: put them back, {OTHERWISE}")
    recipe.save(files.recipe)
    run = {"text": examples.fingerprint, "labels": list(examples.labels)}
    write_atomically(files.run, json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _binding(recipe: ClassificationRecipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.tables().items() if key not in FREE}


def _describe(line: dict[str, Any]) -> str:
    usage = " ".join(f"{share:.0%}" for share in line["usage"])
    return f"loss {line['loss']:.3f}  gate entropy {line['entropy']:.3f}  experts {usage}"
