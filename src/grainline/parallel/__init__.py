"""Where tensors live: the ranks of a run, data parallelism, and parameters sharded over it."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.parallel.data_parallel import sum_gradients
    from grainline.parallel.features import refuse_unsupported
    from grainline.parallel.fsdp import shard
    from grainline.parallel.ranks import Ranks, join_ranks, share

__all__ = ["Ranks", "join_ranks", "refuse_unsupported", "shard", "share", "sum_gradients"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Ranks": "ranks",
        "join_ranks": "ranks",
        "refuse_unsupported": "features",
        "shard": "fsdp",
        "share": "ranks",
        "sum_gradients": "data_parallel",
    },
)
