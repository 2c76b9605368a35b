"""`grainline generate`: let a model go on from a prompt, in this terminal."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import TYPE_CHECKING

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline.serve.local import LocalAnswer

ENGINE_SECONDS = 10.0


def run(
    model: str,
    prompt: str,
    /,
    *,
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    chat: bool = False,
    chat_template: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Let a model go on from a prompt, told as it is made.

    It is computed here and now, as `grainline serve` would: no server is needed.

      grainline generate runs/quickstart/model "Once upon a time" --max-tokens 100
      grainline generate ORG/NAME "Why is the sky blue?" --chat
      cat letter.txt | grainline generate runs/quickstart/model - --temperature 0

    Args:
        model: a model's folder, a training run's folder, or a hub id ORG/NAME.
        prompt: the text to go on from; - reads it from standard input, less its last newline.
        max_tokens: how many tokens at most; the context's end may come first.
        temperature: 0 takes the likeliest token each time; above 1 is wilder.
        top_p: draw only from the likeliest tokens that together reach this probability.
        top_k: draw only from so many likeliest tokens; 0: from all.
        min_p: draw only from tokens at least this share as likely as the likeliest.
        repetition_penalty: above 1 makes tokens that were there already less likely.
        seed: the same seed gives the same text; default: another each time.
        stop: strings that end the text; it ends before them.
        chat: the prompt is a message to answer, put into the model's chat template.
        chat_template: with --chat: a Jinja file, or 'plain'; default: the model's own, else plain.
        dtype: of the weights, such as float32 or bfloat16; default: as stored.
        device: where to compute, such as cpu or cuda:1; auto: a GPU if there is one.
        json: print one JSON object at the end instead: text, finish_reason, usage, seed, seconds.
    """
    text = _prompt(prompt)
    if chat_template is not None and not chat:
        raise GrainlineError("--chat-template: only goes with --chat.")
    from grainline.serve.loading import open_model
    from grainline.serve.local import answer

    served = open_model(model, dtype=dtype, device=device, chat_template=chat_template if chat else "plain")
    fields = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": list(stop),
    }
    began = time.perf_counter()
    try:
        told = answer(served, text, fields, chat=chat, tell=_nothing if json else _tell)
    finally:
        served.engine.close("the command ends")
        served.engine.join(ENGINE_SECONDS)  # the interpreter must not end under a running computation
    _report(told, time.perf_counter() - began, json)
    return 0


def _prompt(prompt: str) -> str:
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        prompt.encode("utf-8")  # arguments that aren't UTF-8 arrive as lone surrogates
        return prompt
    except UnicodeError:
        source = "standard input" if prompt == "-" else "PROMPT"
        raise GrainlineError(f"{source}: is not UTF-8 text.") from None


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _nothing(text: str) -> None:
    pass


def _report(told: LocalAnswer, seconds: float, json: bool) -> None:
    if json:
        tables = {**told.tables(), "seconds": round(seconds, 3)}
        print(json_module.dumps(tables, ensure_ascii=False))
        return
    print()
    if sys.stderr.isatty():
        rate = told.completion_tokens / seconds if seconds else 0.0
        ended = {"stop": "ended by itself or at a stop string", "length": "ended at its length"}[told.finish_reason]
        print(f"[{told.completion_tokens} tokens, {rate:.1f} tokens/s; {ended}; seed {told.seed}]", file=sys.stderr)
