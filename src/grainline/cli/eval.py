"""`grainline eval`: measure a model on text and on tasks."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grainline.documents import GrainlineError, make_folder

if TYPE_CHECKING:
    from grainline.data.readers import TextDocument
    from grainline.eval import Scorer, Scores
    from grainline.eval.tasks import EvalTask, TaskResult


def run(
    model: str,
    /,
    *,
    text: tuple[str, ...] = (),
    task: tuple[str, ...] = (),
    against: tuple[str, ...] = (),
    endpoint: str | None = None,
    window: int | None = None,
    max_bytes: int | None = None,
    device: str = "auto",
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Measure a model: bits per byte of text by part, and likelihood tasks.

      grainline eval runs/quickstart/model --text letters/ notes.md
      grainline eval runs/quickstart/model --text novel.txt --against corpus/
      grainline eval runs/quickstart/model --task quiz.jsonl --out scores
      grainline eval my-model --endpoint http://127.0.0.1:8000/v1 --text novel.txt

    Args:
        model: a model folder, a run's folder, or a hub id; with --endpoint, the name the server knows it by
        text: files, folders or globs to score, as `grainline train` reads them; or 'builtin'
        task: JSONL files of examples; or 'true-continuation', which is made from --text
        against: text that an n-gram model and xz learn from, to be scored beside the model: its own training text
        endpoint: score through a server's OpenAI API (http://127.0.0.1:8000/v1) instead; OPENAI_API_KEY holds its key
        window: tokens of context (characters, with --endpoint); default: all positions of the model (4000 characters)
        max_bytes: read no more than so many bytes from each source of --text and --against
        device: where to compute, such as cpu or cuda:1; auto: a GPU if there is one
        out: a folder for scores.json and each task's samples
        json: print one JSON object with all scores
    """
    if not text and not task:
        raise GrainlineError("there is nothing to measure: name --text PATH, or --task FILE.jsonl.")
    if against and not text:
        raise GrainlineError("--against trains baselines that are scored on --text: name that too.")
    if out is not None:
        make_folder(out)  # now, rather than after all the scoring, if it can't be
    from grainline.eval.harness import report, save
    from grainline.eval.tasks import find_task

    documents = _read(text, max_bytes)
    tasks = [find_task(name, documents) for name in task]
    with _scorer(model, endpoint, window, device) as scorer:
        scores = _score(scorer, documents) if text else None
        results = [_run(scorer, one) for one in tasks]
    baselines = _baselines(_read(against, max_bytes), documents) if against else {}
    table = {"model": model, **report(scores, results)}
    if baselines:
        table["baselines"] = {name: scored.table() for name, scored in baselines.items()}
    kept = save(out, table, results) if out is not None else []
    if json:
        print(json_module.dumps(table, indent=2, ensure_ascii=False))
    else:
        _show(scores, baselines, results, kept)
    return 0


def _read(sources: tuple[str, ...], max_bytes: int | None) -> list[TextDocument]:
    if not sources:
        return []
    from grainline.data.readers import read_text

    return list(read_text(sources, max_bytes))


@contextmanager
def _scorer(model: str, endpoint: str | None, window: int | None, device: str) -> Iterator[Scorer]:
    if endpoint is not None:
        from grainline.eval.endpoint import DEFAULT_WINDOW, EndpointScorer

        with EndpointScorer(endpoint, model, window=window or DEFAULT_WINDOW) as scorer:
            yield scorer
        return
    from grainline.eval.model_scorer import ModelScorer
    from grainline.models.loading import load

    # Scores are compared with one another, so they are computed in the one dtype that every machine has.
    loaded, tokenizer = load(model, dtype="float32", device=device)
    yield ModelScorer(loaded, tokenizer, window=window)


def _score(scorer: Scorer, documents: list[TextDocument]) -> Scores:
    from grainline._progress import counted
    from grainline.eval.bits_per_byte import score_documents

    with counted("scoring documents", len(documents)) as more:
        return score_documents(scorer, documents, more)


def _run(scorer: Scorer, task: EvalTask) -> TaskResult:
    from grainline._progress import counted

    with counted(f"task {task.name}", task.size) as more:
        return task.run(scorer, more)


def _baselines(training: list[TextDocument], documents: list[TextDocument]) -> dict[str, Scores]:
    from grainline.eval.baselines import ngram_scores, xz_scores

    texts = [document.text for document in training]
    return {"order-5 n-gram": ngram_scores(texts, documents), "xz -9": xz_scores(texts, documents)}


def _show(scores: Scores | None, baselines: Mapping[str, Scores], results: list[TaskResult], kept: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if scores is not None:
        found = Table("part", title="bits per byte, less is better", title_justify="left", box=None, pad_edge=False)
        for column in ("documents", "bytes", "model", *baselines):
            found.add_column(column, justify="right")
        columns = [scores, *baselines.values()]
        for rows in zip(*((*each.parts, each.total) for each in columns), strict=True):
            first = rows[0]
            style = "bold" if first.part == "total" else None
            costs = [f"{row.bits_per_byte:.4f}" for row in rows]
            found.add_row(first.part, f"{first.documents:,}", f"{first.bytes:,}", *costs, style=style)
        console.print(found)
    for result in results:
        console.print(f"\n{result.task}, {len(result.samples)} samples (95 % interval)")
        for name, score in result.intervals().items():
            chance = f", chance {result.chance[name]:.3f}" if name in result.chance else ""
            console.print(f"  {name} {score.value:.4f} ({score.low:.4f} to {score.high:.4f}){chance}", highlight=False)
    if kept:
        console.print(f"\nKept in {kept[0].parent}: {', '.join(path.name for path in kept)}", highlight=False)
