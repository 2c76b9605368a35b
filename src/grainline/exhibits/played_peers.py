"""One MoE layer on two threads of this CPU, overlapped in several ways, while a thread plays three other ranks."""

from __future__ import annotations

from collections.abc import Mapping

from grainline.exhibits.harness import alternate

SOURCES, EXPERTS, WIDTH, HIDDEN = 4, 8, 1024, 1024
TILE = 128, 256
SHARE = 0.25
"""Of the compute, how long rows take to come, and as long to go back. It is less than the second product takes, a third
of the compute, so that this bounds the layer, as in the closed form."""
OVERLAPS = ("serial", "chunks", "tile", "fused")


def run_layers(seed: int, rounds: int, tokens: int) -> Mapping[str, list[float]]:
    """Seconds of each overlap, in turns. The link's rate follows from the compute, measured first."""
    import torch

    from grainline.kernels.tiles import Peers
    from grainline.parallel.overlapped import Overlapped, run_overlapped
    from grainline.schedule.overlap import Options, TileShape

    generator = torch.Generator().manual_seed(seed)
    rows = 2 * tokens
    expert_N = torch.randint(0, EXPERTS, (rows,), generator=generator).sort().values
    inputs = (
        torch.randn(tokens, WIDTH, generator=generator),
        torch.randn(EXPERTS, 2, HIDDEN, WIDTH, generator=generator) / WIDTH**0.5,
        torch.randn(EXPERTS, WIDTH, HIDDEN, generator=generator) / HIDDEN**0.5,
        torch.rand(rows, generator=generator),
        torch.randint(0, tokens, (rows,), generator=generator),
        torch.bincount(expert_N, minlength=EXPERTS),
        torch.arange(tokens) % SOURCES,
    )

    def run(name: str, peers: Peers) -> Overlapped:
        return run_overlapped(*inputs, name, Options(TileShape(*TILE)), workers=2, peers=peers)

    run("serial", Peers())
    alone = min(run("serial", Peers()).timeline.makespan for _ in range(3))
    sent_bytes = run("serial", Peers()).plan.layer.exchange_bytes
    peers = Peers(bytes_per_second=sent_bytes / (SHARE * alone))
    seconds: dict[str, list[float]] = {name: [] for name in OVERLAPS}
    alternate(
        {name: lambda name=name: seconds[name].append(run(name, peers).timeline.makespan) for name in OVERLAPS},  # type: ignore[misc]
        rounds=rounds,
        warmup=0,
    )
    return seconds
