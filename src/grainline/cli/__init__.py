"""The front door: `grainline VERB …` finds the verb's file, reads its arguments, and answers errors for people.

A verb is one thin file here with one function, ``run``, whose annotated arguments and docstring are the command line
(tyro reads them):

- What must be named comes before ``/`` and is positional; everything else comes after ``*`` and is an option with a
  default. Underscores become dashes: ``max_new_tokens: int = 128`` is ``--max-new-tokens 128``.
- ``name: tuple[str, ...] = ()`` takes several values after one flag (``--text a b``); ``Settings`` from
  `grainline.cli.arguments` is repeated instead (``--set a.b=c --set d=e``).
- ``flag: bool = False`` is ``--flag``; ``flag: bool = True`` is ``--no-flag``, so word its help for both.
- A verb whose result a script may want takes ``json: bool = False`` and then prints one JSON value, and only that, on
  standard output. Progress and remarks go to standard error.
- The docstring's first line says what the verb does; ``Args:`` has a line for each argument, with its unit; examples
  are indented lines before it.
- ``run`` returns the exit code: 0, or 1 where the answer is "no". A mendable mistake raises GrainlineError (exit 2).

torch and everything else that is slow to import is imported inside ``run``, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from grainline import __version__


class Verb(NamedTuple):
    """A verb's module, under `grainline.cli`, and what it does in one line."""

    module: str
    summary: str


VERBS: dict[str, dict[str, Verb]] = {
    "See it work": {
        "quickstart": Verb("quickstart", "from raw text to a trained, evaluated, ready-to-serve sparse model"),
        "exhibit": Verb("exhibit", "see a published claim stand or fall here"),
    },
    "Train and use a model": {
        "train": Verb("train", "train what a recipe asks for; stop and resume at any time"),
        "classify": Verb("classify", "train a classifier of unlike experts on labelled texts, score it, ask it"),
        "eval": Verb("eval", "measure a model: bits per byte, likelihood tasks"),
        "generate": Verb("generate", "let a model go on from a prompt"),
        "serve": Verb("serve", "answer the OpenAI HTTP API with a model"),
    },
    "Decide before you pay": {
        "plan train": Verb(
            "plan_train", "how to spread a model's training over a cluster: the fastest layouts that fit"
        ),
        "simulate": Verb("simulate", "what a step of pipelined training would take on a cluster"),
        "simulate layer": Verb("simulate_layer", "one MoE layer tile by tile: what hides its communication"),
        "plan compare": Verb("plan_compare", "what was predicted of a pipeline against what its run took"),
        "plan calibrate": Verb("plan_calibrate", "a cluster's rates, corrected by a run on it"),
        "plan diff": Verb("plan_diff", "what two plans have unlike, and what is expected of each"),
        "plan export": Verb("plan_export", "a plan as the flags of Megatron-LM, torchtitan or vLLM"),
        "plan models": Verb("plan_models", "public architectures that can be planned for by name"),
        "plan size": Verb("plan_size", "message sizes and shapes of products that a cluster likes, and why"),
        "plan fleet": Verb("plan_fleet", "the cheapest mix of device types that serves a traffic in time"),
        "plan filters": Verb("plan_filters", "rates, quality, power and price of a pipeline of filters"),
        "plan memory": Verb("plan_memory", "serving a model from small local memories and a pool that devices share"),
        "plan trace": Verb("plan_trace", "record which experts the tokens of a text choose"),
        "plan place": Verb("plan_place", "which rank is to hold which expert, from such a trace"),
        "plan skip": Verb("plan_skip", "a pipeline whose micro-batches skip stages, for slow and unequal links"),
    },
    "Know the machine": {
        "doctor": Verb("doctor", "what works on this machine, what is missing, and the command that mends it"),
        "hardware": Verb("hardware", "this machine's cores, memory, accelerators and matmul rates"),
        "hardware catalogue": Verb("hardware_catalogue", "published figures of devices and links, with their sources"),
        "hardware measure": Verb("hardware_measure", "measure rates and write them as a cluster document"),
        "hardware tune": Verb("hardware_tune", "measure the Triton kernels' tiles on this GPU and keep the fastest"),
    },
}

EXAMPLES = """\
  grainline quickstart --minutes 2            a small model, end to end, in two minutes
  grainline train recipe.toml --set seed=1    recipes to begin with: examples/recipes in a clone
  grainline generate runs/quickstart/model "Once upon a time"
  grainline serve runs/quickstart/model       http://127.0.0.1:8000/v1
  grainline simulate recipe.toml --ranks 4 --cluster "2xA100-80 + 2xA10G@25GbE"
  grainline train recipe.toml --pipeline 2    two processes, each with a part of the model"""

DEBUG, ANYWHERE = "GRAINLINE_DEBUG", "ANYWHERE"
NO_MEMORY = ("can't allocate memory", "out of memory")
"""How torch's allocators for CPU and GPU say it, in a RuntimeError."""
OK, FAILED, MENDABLE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done. 1: the answer is no, or grainline failed. 2: something the person can mend. 130: interrupted by Ctrl-C.
    """
    share_cores()
    if "GRAINLINE_PARENT_PIPE" in os.environ:
        from grainline.cli.spawn import end_with_parent

        end_with_parent()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        if sys.stdout is not None:  # closed by `>&-`
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # tyro's way out: 0 after --help, 2 after a wrong argument
        return stop.code if isinstance(stop.code, int) else OK
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # the first of several processes speaks for all
            print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left: say nothing, also not while Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _explain(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return OK
    if arguments[0] in ("-V", "--version"):
        print(f"grainline {__version__}")
        return OK
    verbs = {name: verb for group in VERBS.values() for name, verb in group.items()}
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in verbs:
            return _run(name, verbs[name], arguments[words:])
    from grainline.documents import GrainlineError, nearest

    raise GrainlineError(f"there is no verb '{arguments[0]}'.{nearest(arguments[0], verbs)} See grainline --help.")


def _run(name: str, verb: Verb, arguments: list[str]) -> int:
    from grainline.cli.arguments import call

    if name != "doctor":  # which says it among other things
        _check_platform()
    return call(importlib.import_module(f"{__name__}.{verb.module}").run, f"grainline {name}", arguments)


def _check_platform() -> None:
    """Raises GrainlineError where grainline isn't meant to run, unless ANYWHERE is set."""
    import platform

    from grainline.documents import GrainlineError
    from grainline.hardware.machine import PROMISED

    here = platform.system(), platform.machine()
    if here not in PROMISED and not os.environ.get(ANYWHERE):
        raise GrainlineError(
            "made for Linux on x86-64 and aarch64 and for macOS on Apple silicon; "
            f"this is {' '.join(here)}. To try all the same: set {ANYWHERE}=1 in the environment."
        )


def share_cores() -> None:
    """Let OpenMP's threads sleep soon while they wait. Must come before torch is imported.

    GNU OpenMP spins by default. When anything else wants a core, the thread that all wait for is then held up by those
    that wait for it: a training step on two cores beside one busy program took twenty times as long.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def usage() -> str:
    """What `grainline --help` prints: the verbs, grouped by what a person wants."""
    width = max(len(name) for group in VERBS.values() for name in group) + 2
    lines = ["grainline plans, trains, measures and serves sparse language models on the hardware you have.", ""]
    lines += ["usage: grainline VERB [ARGUMENTS]        grainline VERB --help says more of each", ""]
    for title, group in VERBS.items():
        lines += [title, *(f"  {name:{width}}{verb.summary}" for name, verb in group.items()), ""]
    return "\n".join([*lines, "Examples", EXAMPLES])


def _explain(error: Exception) -> int:
    """Print an error for the person who met it, and return the exit code."""
    import errno
    import traceback

    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "grainline").startswith("grainline"):
        package = str(error.name).split(".")[0]
        if package in sys.stdlib_module_names:  # fcntl on Windows, say: nothing to install
            print(f"grainline: this Python lacks its own module '{package}'.", file=sys.stderr)
            print("  Complete Pythons on Linux and macOS have it: use another one.", file=sys.stderr)
            return MENDABLE
        print(f"grainline: the package '{package}' is missing. Install it, e.g.", file=sys.stderr)
        print(f"  {sys.executable} -m pip install {package}", file=sys.stderr)
        return MENDABLE
    from grainline.documents import AlreadyTold, DocumentError, GrainlineError

    mendable = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
    if isinstance(error, GrainlineError):
        # Under torchrun all processes of a machine read the same documents, and the first of them tells what is wrong.
        reads_along = isinstance(error, DocumentError) and os.environ.get("LOCAL_RANK", "0") != "0"
        if not (reads_along or isinstance(error, AlreadyTold)):
            print(f"grainline: {error}", file=sys.stderr)
        return MENDABLE
    if isinstance(error, OSError) and error.errno in mendable:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = " Free some space, or write to another disk, and run this again." if full else ""
        print(f"grainline: {where}{error.strerror}.{mend}", file=sys.stderr)
        return MENDABLE
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        print(
            "grainline: there isn't enough memory for this. A smaller model, shorter sequences, or fewer",
            file=sys.stderr,
        )
        print("  of them per pass take less; grainline train --dry-run says how much.", file=sys.stderr)
        return MENDABLE
    place = traceback.extract_tb(error.__traceback__)[-1]
    print(f"grainline: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  raised in {place.filename}:{place.lineno}. {DEBUG}=1 prints the whole traceback.", file=sys.stderr)
    return FAILED
