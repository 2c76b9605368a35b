"""`grainline plan trace`: record which experts the tokens of a text choose."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from grainline.documents import GrainlineError


def run(
    model: str,
    /,
    *,
    text: tuple[str, ...] = ("builtin",),
    tokens: int = 5000,
    window: int | None = None,
    out: Path = Path("trace.npz"),
    device: str = "auto",
    json: bool = False,
) -> int:
    """Record a routing trace: which experts the tokens of a text choose, layer by layer, for grainline plan place.

    Take text like what the model will be asked. grainline train --routing-trace FILE records one of held-out text.

      grainline plan trace runs/quickstart/model --text letters/ --tokens 20000 --out trace.npz

    Args:
        model: a model's folder, a training run's folder, or a hub id
        text: files, folders or globs, as grainline train reads them; or 'builtin'
        tokens: of the trace, from as many documents as there are
        window: tokens of a sequence; default: 256, or the model's positions if fewer
        out: the trace (.npz)
        device: where to compute, such as cpu or cuda:1; auto: a GPU if there is one
        json: print what was recorded as one JSON object
    """
    if out.suffix != ".npz":
        raise GrainlineError(f"--out {out}: name a file that ends in .npz.")
    from grainline._progress import counted
    from grainline.data.readers import read_text
    from grainline.models.loading import load
    from grainline.models.trace import trace_of_texts

    loaded, tokenizer = load(model, dtype="float32", device=device)
    texts = (document.text for document in read_text(text))
    with counted("tokens", tokens) as more:
        trace = trace_of_texts(loaded, tokenizer, texts, tokens, window, more)
    trace.save(out)
    sequences = len(set(trace.sequence_T.tolist()))
    if json:
        found = {"trace": str(out), "tokens": trace.tokens, "sequences": sequences, "layers": trace.layers}
        print(json_module.dumps({**found, "experts": trace.experts, "router": trace.router}, indent=2))
    else:
        print(
            f"{trace.tokens:,} tokens of {sequences:,} sequences, {len(trace.layers)} layers of {trace.experts} "
            f"experts: {out}. Next: grainline plan place {out} --cluster …"
        )
    return 0
