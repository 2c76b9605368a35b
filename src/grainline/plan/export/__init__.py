"""A plan as the flags of the engines that people already use, by name.

Names of flags were checked against Megatron-LM (August 2026), torchtitan (2026) and vLLM 0.11's documentation; none of
them was run with these. What an engine has no flag for is refused by name, or told as a remark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grainline.plan.export.common import Exported, Run
from grainline.plan.export.megatron import megatron
from grainline.plan.export.torchtitan import torchtitan
from grainline.plan.export.vllm import vllm

EXPORTS: Mapping[str, Callable[[Run], Exported]] = {"megatron": megatron, "torchtitan": torchtitan, "vllm": vllm}

__all__ = ["EXPORTS", "Exported", "Run"]
