"""Training tokens per second beside transformers' Qwen3-MoE: the same shape, data, optimiser and machine, in one run.

Every expert implementation of transformers is tried in both dtypes (and compiled, with --compile); the fastest of each
dtype is then run in turns with grainline's model. A step is whole: forward, loss, backward, clipping, fused AdamW, on
new tokens each time. The share of the machine's matmul rate is of a large product in the same dtype and run.

    python benchmarks/bench_training.py [--rounds 7] [--compile] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.exhibits.harness import alternate, ratio
from grainline.hardware import processor
from grainline.models.build import build
from grainline.models.count import flops_per_token, parameters
from grainline.models.loss import loss_sums

RESULT = Path(__file__).parent / "results" / "training.json"
BATCH, LENGTH, RATE = 8, 256, 1e-4
# "batched_mm" copies an expert's weights for every token that it gets: 50 GB here, so it is left out.
IMPLEMENTATIONS = ("eager", "grouped_mm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CONFIG = ModelConfig(
    family="qwen3-moe",
    vocab_size=8192,
    hidden_size=256,
    layers=8,
    ffn_hidden=512,
    attention=Attention(heads=8, kv_heads=4, head_dim=32, qk_norm=True),
    moe=Moe(experts=32, top_k=4, expert_hidden=128, router="softmax-topk"),
)

Step = Callable[[], None]


def batches() -> Callable[[], torch.Tensor]:
    """A stream of new token batches [B, S + 1], the same for every candidate."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randint(0, CONFIG.vocab_size, (BATCH, LENGTH + 1), generator=generator)


def grainline_step(dtype: torch.dtype) -> Step:
    model = build(CONFIG)
    model.compute_dtype = dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    next_batch = batches()

    def step() -> None:
        loss_sums(model, next_batch()).objective(Loss(), BATCH * LENGTH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def transformers_step(dtype: torch.dtype, implementation: str, compiled: bool) -> Step:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    moe, attention = CONFIG.moe, CONFIG.attention
    assert moe is not None
    config = Qwen3MoeConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.hidden_size,
        intermediate_size=CONFIG.ffn_hidden,
        num_hidden_layers=CONFIG.layers,
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        num_experts=moe.experts,
        num_experts_per_tok=moe.top_k,
        moe_intermediate_size=moe.expert_hidden,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        experts_implementation=implementation,
    )
    model = Qwen3MoeForCausalLM(config).float().train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    next_batch = batches()

    def step() -> None:
        ids = next_batch()[:, :-1]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a product of 2,048² matrices, the best of several."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def best_of_transformers(dtype: torch.dtype, compiled: bool) -> tuple[str, dict[str, float]]:
    """The name of transformers' fastest setting, and seconds per step of each that runs."""
    seconds: dict[str, float] = {}
    for implementation in IMPLEMENTATIONS:
        for is_compiled in (False, True) if compiled else (False,):
            name = f"{implementation}{' compiled' if is_compiled else ''}"
            try:
                step = transformers_step(dtype, implementation, is_compiled)
                seconds[name] = statistics.median(alternate({name: step}, rounds=3, warmup=2)[name])
            except Exception as error:  # a setting that transformers can't run here is no candidate
                print(f"  transformers {name}: doesn't run here ({type(error).__name__})")
    return min(seconds, key=lambda name: seconds[name]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps per dtype; at least 5")
    parser.add_argument("--compile", action="store_true", help="also try transformers under torch.compile (minutes)")
    parser.add_argument("--threads", type=int, default=processor.threads(processor.usable_cores()))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    flops = flops_per_token(CONFIG, LENGTH)
    print(f"{parameters(CONFIG).total / 1e6:.1f} M parameters, {flops / 1e6:.0f} MFLOPs per token, {BATCH} × {LENGTH}")
    rows = []
    for name, dtype in DTYPES.items():
        best, tried = best_of_transformers(dtype, arguments.compile)
        theirs = transformers_step(dtype, best.removesuffix(" compiled"), best.endswith("compiled"))
        pair = {"transformers": theirs, "grainline": grainline_step(dtype)}
        seconds = alternate(pair, rounds=max(5, arguments.rounds), warmup=3)
        faster, rate = ratio(seconds["transformers"], seconds["grainline"]), matmul_rate(dtype)
        speed = {who: BATCH * LENGTH / statistics.median(times) for who, times in seconds.items()}
        rows.append(
            {
                "dtype": name,
                "grainline_tokens_per_second": speed["grainline"],
                "transformers_tokens_per_second": speed["transformers"],
                "transformers_best": best,
                "transformers_tried_seconds": tried,
                "ratio": faster.value,
                "ratio_error_bar": faster.error_bar,
                "matmul_flops_per_second": rate,
                "share_of_matmul_rate": speed["grainline"] * flops / rate,
                "transformers_share_of_matmul_rate": speed["transformers"] * flops / rate,
            }
        )
        print(
            f"{name}: grainline {speed['grainline']:,.0f} tokens/s, transformers ({best}) "
            f"{speed['transformers']:,.0f}: "
            f"{faster} ×; {rows[-1]['share_of_matmul_rate']:.2f} of the matmul rate of {rate / 1e9:,.0f} GFLOP/s"
        )
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpu": processor.name()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "threads": arguments.threads, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
