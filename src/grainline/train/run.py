"""`train`: a recipe, a plan and a folder in; a model, and everything to go on from, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from grainline._progress import counts
from grainline.data.files import refuse_inside
from grainline.documents import ModelConfig, Plan, Recipe
from grainline.hardware import Machine, look
from grainline.models.count import parameters
from grainline.models.model import Model
from grainline.models.moe.bottleneck import check_latent
from grainline.models.moe.token_rounding import check_tiles
from grainline.parallel import Ranks, join_ranks, refuse_unsupported
from grainline.train.batches import check_shares
from grainline.train.checkpoint import CheckpointWriter, load, newest
from grainline.train.corpus import Corpus, prepare
from grainline.train.decide import Decision, crowding, decide, estimate_run, free_memory_bytes, peak_flops
from grainline.train.documents import read_plan, read_recipe
from grainline.train.files import RunFolder, write_down
from grainline.train.finish import finish
from grainline.train.foresee import check_pipeline, foreseen_model
from grainline.train.guard import Guard
from grainline.train.loop import Loop
from grainline.train.metrics import MetricsLog, open_tensorboard
from grainline.train.pipelined import Pipelined
from grainline.train.progress import Reporter
from grainline.train.result import TrainResult
from grainline.train.setup import Setup, set_up
from grainline.train.signals import StopRequest, TrainingInterrupted
from grainline.train.source import fit, source_of
from grainline.train.state import TrainingState
from grainline.train.timelines import check_timeline


def train(
    recipe: Recipe | str | Path,
    plan: Plan | str | Path | None = None,
    *,
    out: str | Path,
    resume: bool = True,
    overrides: Iterable[str] = (),
    data: str | Path | None = None,
    quiet: bool = False,
    timeline: int | None = None,
) -> TrainResult:
    """Train what `recipe` asks for as `plan` says (default: decided from the machine), and keep everything in `out`.

    With `resume` a run that was interrupted goes on from its last checkpoint, and one that came to its end is returned
    as it is; without it `out` is cleared first. `overrides` are ``a.b=value`` strings for the recipe. `data` is a
    folder for tokenizer and packed text that several runs share (default: in `out`). `timeline` is a step of a pipeline
    whose measured timeline is kept. Under torchrun every rank calls this.

    Raises GrainlineError for what a person can mend, TrainingDiverged (one of them) when the guard stops the run, and
    TrainingInterrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM, with the run saved.
    """
    recipe, plan = read_recipe(recipe, overrides), read_plan(plan)
    files = RunFolder(Path(out), recipe.checkpoint.keep)
    ranks = join_ranks(plan.execution.device)
    with ExitStack() as stack:
        done = ranks.on_first(lambda: _claim(files, recipe, plan, ranks, resume, timeline, stack))
        quiet = quiet or not ranks.is_first
        if done is not None:
            Reporter(recipe.training.steps, quiet=quiet).say(
                f"This run came to its end before. The model is in {done.model}. To start anew: --no-resume."
            )
            return done
        report = Reporter(recipe.training.steps, files.log if ranks.is_first else None, quiet=quiet)
        stack.callback(report.close)
        stack.enter_context(_threads_restored())
        return _train(recipe, plan, files, Path(data) if data else files.data, ranks, timeline, report, stack)


def _claim(
    files: RunFolder,
    recipe: Recipe,
    plan: Plan,
    ranks: Ranks,
    resume: bool,
    timeline: int | None,
    stack: ExitStack,
) -> TrainResult | None:
    """Take the folder for this run; its result if it came to its end before. For the first rank alone.

    What can be known to go wrong is refused here: before hours of packing, and before an earlier run is deleted.
    """
    refuse_unsupported(plan, ranks)
    check_shares(recipe, plan, ranks)
    if timeline is not None:
        check_timeline(timeline, recipe, plan)
    stack.enter_context(files.locked())
    refuse_inside(files.out, recipe.data.text)
    if resume:
        files.check_recipe(recipe)
        done = TrainResult.load(files.result) if files.model.is_dir() else None
        if done is not None:
            return done
    config = foreseen_model(recipe)
    if plan.pipeline is not None:
        check_pipeline(recipe, plan, config, ranks)
    if not resume:
        files.clear()
    return None


def _train(
    recipe: Recipe,
    plan: Plan,
    files: RunFolder,
    data: Path,
    ranks: Ranks,
    timeline: int | None,
    report: Reporter,
    stack: ExitStack,
) -> TrainResult:
    machine = ranks.on_first(lambda: look(disk=files.out))
    source, tokenizer = source_of(recipe)
    corpus = prepare(recipe, data, tokenizer, ranks, report.say)
    source = fit(source, recipe, corpus.tokenizer)
    config = source.config if isinstance(source, Model) else source
    decision = decide(recipe, plan, config, machine, ranks, files.read_run())
    torch.set_num_threads(decision.threads)
    crowded = crowding(decision.threads, machine)
    if crowded is not None:
        report.say(crowded)
    need = estimate_run(recipe, config, decision, machine, ranks, 0).memory.total
    free = free_memory_bytes(machine, ranks)
    if need > free:
        report.say(
            f"Memory may not suffice: about {need / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} GB are free. "
            "grainline train --dry-run says what for."
        )
    if config.moe is not None:
        tokens = decision.micro_batch_sequences * recipe.data.sequence_length
        for remark in (check_tiles(config.moe, tokens), check_latent(config)):
            if remark is not None:
                report.say(remark)
    ranks.on_first(lambda: _keep(files, recipe, decision, config, corpus, machine))
    setup = set_up(
        recipe,
        decision.plan,
        ranks,
        source,
        corpus.train,
        corpus.validation,
        compute=decision.compute,
        peak_flops=peak_flops(machine, ranks, decision.compute),
        bos_token_id=corpus.tokenizer.separator_id,
        laid_out=decision.pipeline,
    )
    stack.callback(setup.work.close)
    state, guard = _resumed(setup, files, report)
    resumed_from = state.step or None
    report.say(_intention(setup, decision, config, corpus, resumed_from))
    if isinstance(setup.work, Pipelined) and setup.work.remark is not None:
        report.say(setup.work.remark)
    if timeline is not None and state.step >= timeline:
        report.say(f"Step {timeline} was made before, so that no timeline of it is kept: name a later one.")
    writer = CheckpointWriter()
    stack.callback(writer.close)
    wants_board = ranks.is_first and recipe.logging.tensorboard
    loop = Loop(
        setup=setup,
        state=state,
        guard=guard,
        files=files,
        writer=writer,
        report=report,
        metrics=MetricsLog(files.metrics, state.step) if ranks.is_first else None,
        board=open_tensorboard(files.tensorboard, state.step) if wants_board else None,
        stop=stack.enter_context(StopRequest(announce=ranks.is_first)),
        timeline_step=timeline,
    )
    stack.callback(loop.close)
    try:
        loop.run()
    except TrainingInterrupted:
        report.say(f"Saved at step {state.step} of {recipe.training.steps}. The same command goes on from there.")
        raise
    result = ranks.on_first(lambda: finish(setup, state, files, corpus.tokenizer))
    report.say(
        f"Done: {result.validation_loss:.4f} nats per token and {result.validation_bits_per_byte:.4f} bits per byte on "
        f"held-out text. The model is in {result.model}."
    )
    return dataclasses.replace(result, resumed_from=resumed_from)


def _keep(
    files: RunFolder, recipe: Recipe, decision: Decision, config: ModelConfig, corpus: Corpus, machine: Machine
) -> None:
    """Check that what is there is of the same model and text, and write down what this start came to."""
    text = corpus.train.packed.fingerprint
    files.check_inputs(config, text)
    write_down(files, recipe, decision, config, text, machine)


def _resumed(setup: Setup, files: RunFolder, report: Reporter) -> tuple[TrainingState, Guard]:
    """The state of the newest checkpoint, read into model and optimiser; or the state of a run that begins."""
    recipe, ranks = setup.recipe, setup.ranks
    if ranks.is_first:
        for folder in (files.checkpoints, files.best, files.window):
            folder.clear_partial()
    checkpoint = ranks.on_first(lambda: newest(files.checkpoints, report.say))
    step = 0
    state, guard = TrainingState(), Guard(recipe.guard)
    if checkpoint is not None:
        saved = load(checkpoint, setup.all_tensors())
        state, guard = TrainingState.from_json(saved["training"]), Guard(recipe.guard, **saved["guard"])
        step = state.step
        setup.optimizer.resume_at(step)
    if ranks.is_first:
        for folder in (files.checkpoints, files.best, files.window):
            folder.discard_after(step)
    ranks.barrier()
    return state, guard


def _intention(setup: Setup, decision: Decision, config: ModelConfig, corpus: Corpus, resumed_from: int | None) -> str:
    count, training = parameters(config), setup.recipe.training
    begin = f"Going on from step {resumed_from}" if resumed_from else "Training"
    where = (
        f"{setup.ranks.world} ranks on {setup.ranks.device.type}" if setup.ranks.world > 1 else str(setup.ranks.device)
    )
    if isinstance(setup.work, Pipelined):
        where += f", {setup.work.description}"
    epochs = training.steps * setup.recipe.batch_sequences / len(corpus.train)
    times = f"{epochs:.2g}" if epochs < 10 else f"{epochs:,.0f}"
    return (
        f"{begin}: {count.total / 1e6:,.1f} million parameters ({count.active / 1e6:,.1f} million active), "
        f"{training.steps:,} steps of {training.batch_tokens:,} tokens ({times} epochs), "
        f"{decision.compute} on {where}, {counts(decision.threads, 'thread')}, "
        f"{counts(decision.micro_batch_sequences, 'sequence')} per pass."
    )


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
