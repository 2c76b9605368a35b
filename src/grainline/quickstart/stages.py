"""The quickstart's stages, each a function of the run so far."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from grainline._progress import counted
from grainline._words import size
from grainline.data.dataset import TokenDataset
from grainline.data.files import find_text
from grainline.data.pack import pack
from grainline.data.packed import Packed, validation_documents
from grainline.data.readers import TextDocument, read_text
from grainline.data.tokenizer import Tokenizer, train_tokenizer
from grainline.documents import GrainlineError, ModelConfig, write_atomically
from grainline.eval.baselines.compare import ngram_scores, xz_scores
from grainline.eval.bits_per_byte import bits_per_byte
from grainline.eval.scores import Scores
from grainline.hardware import look
from grainline.models.count import parameters
from grainline.models.dial import dense_twin
from grainline.models.generate import Sampling, generate
from grainline.models.loading import load
from grainline.plan.scaling_laws import is_fitted
from grainline.quickstart.budget import (
    SEQUENCE_LENGTH,
    VALIDATION_FRACTION,
    Budget,
    depth_for,
    plan_budget,
    recipe_for,
    vocabulary_for,
)
from grainline.quickstart.options import Options, QuickstartFolder
from grainline.quickstart.settings import sparse_config
from grainline.quickstart.speed import measure_speed
from grainline.train.run import train

LEAST_BYTES = 1 << 20  # of text to pack, however little will be read: some documents of it are held out
MANY_EPOCHS = 16
"""Up to 4 readings of a text teach almost as much as new text would, and by about 16 little more (arXiv 2305.16264)."""
SAMPLE_TOKENS, PROMPT_TOKENS, MOST_SAMPLES = 100, 24, 6
LABELS = {"sparse": "sparse", "dense": "dense, same active size", "n-gram": "n-gram, order 5", "xz": "xz -9"}


@dataclass
class Run:
    """What stages share: the dials, the folder, the facts found so far, and a way to speak."""

    options: Options
    folder: QuickstartFolder
    facts: dict[str, Any]
    say: Callable[[str], None]
    quiet: bool = False  # no progress within a stage

    def know(self, **facts: Any) -> None:
        """Add facts and keep them on disk."""
        self.facts |= facts
        write_json(self.folder.facts, self.facts)

    def counted(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Progress of counted work; see `grainline._progress.counted`."""
        return counted(label, total, quiet=self.quiet)

    @property
    def seconds_spent(self) -> float:
        """By the stages that are done."""
        return sum(timing["seconds"] for timing in self.facts.get("timings", []))

    @property
    def sparse(self) -> ModelConfig:
        """The sparse model's config, once the tokenizer is there."""
        tokenizer = Tokenizer.load(self.folder.tokenizer)
        config = sparse_config(self.facts["depth"], tokenizer.vocab_size, SEQUENCE_LENGTH, self.options.set)
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        return config.model_copy(update={name: getattr(tokenizer, name) for name in ids})

    @property
    def budget(self) -> Budget:
        """How the time is spent, once that is decided."""
        found = {key: value for key, value in self.facts["budget"].items() if key in Budget.__dataclass_fields__}
        return Budget(**found)


def see_machine(run: Run) -> None:
    """Cores, memory, GPU, and what will be done with them."""
    machine = look(disk=run.folder.out)
    depth = run.options.depth or depth_for(run.options.minutes)
    sparse_config(depth, vocabulary_for(depth), SEQUENCE_LENGTH, run.options.set)  # what can't be is told at once
    run.know(machine=machine.as_dict(), depth=depth)
    gpu = machine.accelerators[0].name if machine.accelerators else "no GPU"
    free = f"{machine.memory_available_bytes / 2**30:.0f} GiB of free memory"
    run.say(f"{machine.cpu}, {machine.usable_cores} cores, {free}, {gpu}.")
    minutes = f"{run.options.minutes:g} minute{'' if run.options.minutes == 1 else 's'}"
    run.say(
        f"In about {minutes}: train a tokenizer and a sparse model of {depth} layers on "
        f"{_named(run.options.text)}, compare it with a dense model of the same active size, an n-gram model and xz, "
        f"and write it all to {run.folder.out}."
    )


def make_tokenizer(run: Run) -> None:
    """Byte-level BPE, on an even sample of the text."""
    size, found = vocabulary_for(run.facts["depth"]), find_text(run.options.text)
    tokenizer = train_tokenizer(found, size, validation_fraction=VALIDATION_FRACTION)
    tokenizer.save(run.folder.tokenizer)
    run.know(text=found.fingerprint)
    run.say(f"Tokenizer: {tokenizer.vocab_size:,} tokens.")


def divide_time(run: Run) -> None:
    """Measure a step of both models, decide steps and rates, and pack as much text as will be read."""
    found = find_text(run.options.text)
    if run.facts.get("text") != found.fingerprint:  # what was too little, or damaged, has been mended since
        make_tokenizer(run)
    tokenizer, config = Tokenizer.load(run.folder.tokenizer), run.sparse
    speed = measure_speed(config, dense_twin(config), look(disk=run.folder.out))
    budget = plan_budget(config, run.facts["depth"], speed, run.options.minutes * 60 - run.seconds_spent)
    wanted_bytes = int(budget.tokens * bytes_per_token(tokenizer, run.options.text) / (1 - VALIDATION_FRACTION))
    max_bytes = max(LEAST_BYTES, wanted_bytes)
    packed = pack(found, tokenizer, run.folder.packed, validation_fraction=VALIDATION_FRACTION, max_bytes=max_bytes)
    if packed.tokens("train") <= budget.batch_tokens or packed.tokens("valid") <= SEQUENCE_LENGTH:
        raise GrainlineError(
            f"{_named(run.options.text)}: too little text: {packed.tokens('train'):,} tokens to learn from, and "
            f"{packed.tokens('valid'):,} held out. A batch is {budget.batch_tokens:,}, and {SEQUENCE_LENGTH + 1} must "
            "be held out. Give more text."
        )
    dataset = TokenDataset.open(packed.folder, "train", SEQUENCE_LENGTH)
    epochs = budget.tokens / (len(dataset) * SEQUENCE_LENGTH)
    if 0.8 < epochs < 1.25:  # the text was cut to fit: read all of it, once
        budget = replace(budget, steps=len(dataset) * SEQUENCE_LENGTH // budget.batch_tokens)
        epochs = 1.0
    run.know(
        budget={**budget.tables(), "training_bytes": packed.bytes("train"), "epochs": epochs, "max_bytes": max_bytes},
        corpus=_corpus(packed),
        models={name: asdict(parameters(c)) for name, c in (("sparse", config), ("dense", dense_twin(config)))},
        licences=_licences(run.options.text),
    )
    flops = budget.tokens * budget.flops_per_token
    run.say(
        f"Text: {packed.bytes('train') / 1e6:.1f} MB to learn from in {packed.documents('train'):,} documents, "
        f"{packed.bytes('valid') / 1e3:.0f} kB held out. {budget.steps:,} steps of {budget.batch_tokens:,} tokens for "
        f"each model, {budget.seconds_per_step:.2f} s a step, in {budget.compute}. Batch and rate: the Ling laws"
        f"{'' if is_fitted(flops) else ', extrapolated'} at {flops:.1e} FLOPs."
    )
    if epochs > MANY_EPOCHS:
        run.say(f"So little text is read {epochs:,.0f} times and learnt by heart: more text makes a better model.")


def train_sparse(run: Run) -> None:
    """The model this is about."""
    _train(run, run.sparse, run.folder)


def train_dense(run: Run) -> None:
    """The same steps over the same tokens with a dense model of the same active parameters."""
    _train(run, dense_twin(run.sparse), QuickstartFolder(run.folder.dense))


def evaluate(run: Run) -> None:
    """Bits per byte by part, of both models and of the classical baselines given the very bytes that they read."""
    held_out = list(validation_documents(run.folder.packed))
    scores: dict[str, Scores] = {}
    for name, path in (("sparse", run.folder.model), ("dense", QuickstartFolder(run.folder.dense).model)):
        model, tokenizer = load(path, device="auto")
        model.eval()
        with run.counted(f"the {name} model on held-out documents", len(held_out)) as more:
            scores[name] = bits_per_byte(model, tokenizer, held_out, progress=more)
    text = [training_text(run)]
    run.say(f"An n-gram model and xz learn from the same {size(len(text[0]))}.")
    scores["n-gram"], scores["xz"] = ngram_scores(text, held_out), xz_scores(text, held_out)
    parts = [part.part for part in scores["sparse"].parts]
    found = {
        name: {**{p.part: p.bits_per_byte for p in score.parts}, "total": score.total.bits_per_byte}
        for name, score in scores.items()
    }
    sizes = {part.part: part.bytes for part in scores["sparse"].parts}
    table = {"parts": parts, "bytes": sizes, "bits_per_byte": found, "labels": LABELS, "training_bytes": len(text[0])}
    write_json(run.folder.evaluation, table)


def write_samples(run: Run) -> None:
    """Let the model go on from the beginning of held-out documents, one of each part."""
    model, tokenizer = load(run.folder.model, device="auto")
    model.eval()
    firsts: dict[str, TextDocument] = {}  # by part
    for document in validation_documents(run.folder.packed):
        firsts.setdefault(document.part, document)
    chosen = list(firsts.values())[:MOST_SAMPLES]
    samples: list[dict[str, Any]] = []
    with run.counted("samples", len(chosen)) as more:
        for seed, document in enumerate(chosen, run.options.seed):
            prompt = tokenizer.encode(document.text[:2000])[:PROMPT_TOKENS]
            tokens = generate(
                model,
                [tokenizer.separator_id, *prompt],
                max_new_tokens=SAMPLE_TOKENS,
                sampling=Sampling(temperature=0.7, top_p=0.9),
                stop_ids=model.config.stop_token_ids,
                generator=torch.Generator(model.device).manual_seed(seed),
            )
            text = tokenizer.decode([token.id for token in tokens])
            samples.append({"prompt": tokenizer.decode(prompt), "text": text, "part": document.part, "seed": seed})
            more(1)
    write_json(run.folder.samples, samples)


def training_text(run: Run) -> bytes:
    """The bytes that the models have read, each once, in the order of the text."""
    tokenizer, budget = Tokenizer.load(run.folder.tokenizer), run.budget
    dataset = TokenDataset.open(run.folder.packed, "train", budget.sequence_length, run.options.seed)
    count = min(len(dataset), budget.tokens // budget.sequence_length)
    pieces = zip(dataset.starts(0, count).tolist(), dataset.text(0, count, tokenizer), strict=True)
    return b"".join(text for _, text in sorted(pieces))


def bytes_per_token(tokenizer: Tokenizer, text: tuple[str, ...], sample_bytes: int = 1 << 20) -> float:
    """Of an even sample of the text, separators included."""
    texts = [document.text for document in read_text(text, sample_bytes)]
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
    return sum(len(t.encode("utf-8")) for t in texts) / tokens


def write_json(path: Any, value: Any) -> None:
    """Whole or not at all."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _train(run: Run, config: ModelConfig, folder: QuickstartFolder) -> None:
    recipe = recipe_for(
        run.budget,
        config,
        run.options.text,
        str(run.folder.tokenizer),
        run.facts["budget"]["max_bytes"],
        run.options.seed,
    )
    train(recipe, out=folder.out, data=run.folder.data, quiet=run.quiet)


def _corpus(packed: Packed) -> list[dict[str, Any]]:
    return [
        {"part": part, "split": split, "documents": count.documents, "bytes": count.bytes}
        for split, parts in packed.counts.items()
        for part, count in parts.items()
    ]


def _licences(text: tuple[str, ...]) -> str | None:
    if "builtin" not in text:
        return None
    from grainline.data import builtin

    return (builtin.CORPUS / "SOURCES.md").read_text(encoding="utf-8")


def _named(text: tuple[str, ...]) -> str:
    return "the built-in corpus" if text == ("builtin",) else ", ".join(text)
