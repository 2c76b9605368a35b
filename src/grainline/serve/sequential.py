"""A simple, correct engine: one thread owns the model and decodes one sequence at a time, first come first served."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from grainline.models.generate import GeneratedToken, generate
from grainline.models.model import Model
from grainline.serve.engine import EngineClosed, Generation, GenerationRequest

SCORE_CHUNK_TOKENS = 256  # prompt positions scored at once: bounds the [S, V] logits kept


class SequentialEngine:
    """Runs `grainline.models.generate` on a thread of its own, so that the event loop stays free (see `Engine`)."""

    def __init__(self, model: Model) -> None:
        self._model = model.eval()
        self._queue: deque[Generation] = deque()
        self._current: Generation | None = None
        self._closed: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="grainline-engine", daemon=True)
        self._thread.start()

    @property
    def context_tokens(self) -> int:
        """The model's context length."""
        return self._model.config.max_positions

    @property
    def vocab_size(self) -> int:
        """The model's vocabulary, padding rows included."""
        return self._model.config.vocab_size

    @property
    def waiting(self) -> int:
        """Generations in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """1 while a sequence is decoded."""
        return int(self._current is not None)

    @property
    def failure(self) -> str | None:
        """Set once the engine is closed or its thread has died."""
        if self._closed is not None:
            return self._closed
        return None if self._thread.is_alive() else "the engine's thread has died"

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request."""
        generation = Generation(request, on_cancel=self._forget)
        with self._changed:
            if self.failure is not None:
                raise EngineClosed(self.failure)
            self._queue.append(generation)
            self._changed.notify()
        return generation

    def close(self, reason: str) -> None:
        """Fail what is left; the sequence being decoded ends at its next token."""
        with self._changed:
            if self._closed is not None:
                return
            self._closed = reason
            left = [*self._queue, *([self._current] if self._current else [])]
            self._queue.clear()
            self._changed.notify()
        for generation in left:
            generation.put(EngineClosed(reason))
            generation.cancelled = True

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _forget(self, generation: Generation) -> None:
        with self._changed:
            if generation in self._queue:
                self._queue.remove(generation)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                while not self._queue and self._closed is None:
                    self._changed.wait()
                if self._closed is not None:
                    return
                self._current = self._queue.popleft()
            self._run(self._current)

    def _run(self, generation: Generation) -> None:
        request = generation.request
        try:
            if request.score_prompt:
                generation.prompt_scores = score(self._model, request.prompt_ids, request.top_logprobs)
            for token in self._tokens(request):
                if generation.cancelled:
                    return
                generation.put(token)
        except Exception as error:  # one request's failure must not end the others'
            logging.getLogger(__name__).exception("generation failed")
            generation.put(error)
        else:
            generation.put(StopAsyncIteration())

    def _tokens(self, request: GenerationRequest) -> Iterator[GeneratedToken]:
        if request.max_new_tokens == 0:
            return iter(())
        return generate(
            self._model,
            request.prompt_ids,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            stop_ids=tuple(request.stop_ids),
            generator=torch.Generator(self._model.device).manual_seed(request.seed),
            top_logprobs=request.top_logprobs,
        )


@torch.inference_mode()
def score(model: Model, ids: tuple[int, ...], top_logprobs: int = 0) -> tuple[GeneratedToken, ...]:
    """Each token's log-probability given those before it, from the second on: len(ids) - 1 of them."""
    state = model.new_state()
    scores: list[GeneratedToken] = []
    for first in range(0, len(ids) - 1, SCORE_CHUNK_TOKENS):
        given = ids[first : first + SCORE_CHUNK_TOKENS]
        chosen = ids[first + 1 : first + 1 + len(given)]
        given = given[: len(chosen)]
        hidden_1SD = model.trunk(torch.tensor([given], device=model.device), state).hidden_BSD
        logprob_SV = model.logits(hidden_1SD[0]).float().log_softmax(-1)
        scores += _scored(logprob_SV, chosen, top_logprobs)
    return tuple(scores)


def _scored(logprob_SV: Tensor, chosen: tuple[int, ...], top_logprobs: int) -> list[GeneratedToken]:
    chosen_S1 = torch.tensor(chosen, device=logprob_SV.device).unsqueeze(1)
    logprobs = logprob_SV.gather(1, chosen_S1).squeeze(1).tolist()
    best = logprob_SV.topk(top_logprobs)
    others = [tuple(zip(i, p, strict=True)) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return [GeneratedToken(*told) for told in zip(chosen, logprobs, others, strict=True)]
