"""Compiles the Triton kernels for GPUs that needn't be here, and prints as JSON what NVIDIA's assembler says of them.

python tests/kernels/compile_triton.py CACHE_FOLDER [--all] [ARCHITECTURE …]: of each kernel the first tile that fits
and a small one, or with --all every candidate. A process of its own, because in the tests' own Triton interprets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = sys.argv[1]

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from grainline.kernels.triton import experts_kernel, persistent_kernel, router_kernel
from grainline.kernels.triton.tiles import CANDIDATES, OVER_ROWS, Tile, shared_bytes

SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
BFLOAT16 = (
    "x",
    "w13",
    "w2",
    "hidden",
    "act",
    "rows",
    "weights",
    "out",
    "d_out",
    "d_hidden",
    "scaled",
    "left",
    "right",
    "y",
)
TYPES = {
    **dict.fromkeys(("table", "ends", "order", "offsets", "state"), "*i32"),
    **dict.fromkeys(("counts", "unit", "expert_out", "chosen"), "*i64"),
    **dict.fromkeys(("score", "d_score", "logits", "bias", "score_out", "d_logits"), "*fp32"),
    **dict.fromkeys(BFLOAT16, "*bf16"),
}
"""Argument → its type; all others are sizes."""

KERNELS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "up": (experts_kernel.up_and_activate, {"GATHERED": True, "KEPT": True}, ()),
    "down": (experts_kernel.rows_times_weights, {"GATHERED": False}, ("k_stride",)),
    "d_hidden": (experts_kernel.activation_backward, {"GATHERED": True, "SCORED": True}, ()),
    "d_w2": (experts_kernel.outer_products, {"LEFT_GATHERED": True, "RIGHT_GATHERED": False}, ()),
    "d_w13": (experts_kernel.outer_products, {"LEFT_GATHERED": False, "RIGHT_GATHERED": True}, ()),
    "d_rows": (experts_kernel.rows_times_weights, {"GATHERED": False}, ("n_stride",)),
}
"""Tuned kernel → function, constants beside the tile's, strides that are 1."""
PERSISTENT = {
    "persistent": (persistent_kernel.expert_layer, {"EXPERTS": 128, "TOKENS": 16, "ENTRIES": 8}, ()),
}
"""Takes the tile of "up"."""

ROUTER = {"SCORING": 1, "EXPERTS": 128, "BLOCK": 32, "WIDE": tl.float32}
OTHERS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "row_tiles": (experts_kernel.row_tiles, {"ROWS": 128, "EXPERTS": 128, "BLOCK": 32}, ()),
    "add_up": (experts_kernel.add_up, {"WEIGHTED": True, "ENTRIES": 8, "COLUMNS": 1024, "WIDE": tl.float32}, ()),
    "top_k": (router_kernel.top_k, {**ROUTER, "BIASED": True}, ()),
    "top_k_backward": (router_kernel.top_k_backward, ROUTER, ()),
    "round_balanced": (router_kernel.round_balanced, {}, ()),
}


def compiled(name: str, arch: int, tile: Tile | None) -> dict[str, Any]:
    function, constants, ones = (KERNELS | PERSISTENT | OTHERS)[name]
    options: dict[str, int] = {}
    if tile is not None:
        sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "GROUP": tile.group}
        constants = {**constants, **sizes, "WIDE": tl.float32, "PRECISION": "ieee"}
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
    constants = constants | dict.fromkeys(ones, 1)
    signature, attributes = {}, {}
    for i, argument in enumerate(function.arg_names):
        signature[argument] = "constexpr" if argument in constants else TYPES.get(argument, "i32")
        if argument not in constants and argument not in ("tiles", "k"):
            attributes[(i,)] = [["tt.divisibility", 16]]  # as Triton finds of aligned tensors and round sizes
    places = {(function.arg_names.index(key),): value for key, value in constants.items()}
    kernel = triton.compile(
        ASTSource(function, signature, places, attributes), target=GPUTarget("cuda", arch, 32), options=options
    )
    code, said = kernel.asm["ptx"], assembled(kernel.asm["ptx"], arch)
    return {
        "kernel": name,
        "arch": arch,
        "tile": str(tile),
        "shared_bytes": kernel.metadata.shared,
        "bound_bytes": shared_bytes("up" if name in PERSISTENT else name, tile, 2) if tile else 0,
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled_bytes": int(re.findall(r"(\d+) bytes spill stores", said)[0]),
        "matrix_instructions": len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", code)),
        "copies_of_16_bytes": len(re.findall(r"cp\.async\.cg\.shared\.global .*, 0x10, ", code)),
    }


def assembled(code: str, arch: int) -> str:
    """What the assembler tells of registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembler = tools / ("ptxas-blackwell" if arch >= 100 else "ptxas")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(code)
        file.flush()
        target = f"-arch=sm_{arch}{'a' if arch >= 90 else ''}"
        command = [assembler, "-v", target, file.name, "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def main() -> None:
    arguments = sys.argv[2:]
    everything = "--all" in arguments
    found = []
    for arch in [int(argument) for argument in arguments if argument.isdigit()] or [80, 90]:
        for name, candidates in CANDIDATES.items():
            fitting = [tile for tile in candidates if shared_bytes(name, tile, 2) <= SHARED[arch]]
            few = [fitting[0], Tile(16, 64, 64, warps=4)] if name not in OVER_ROWS else fitting[:1]
            tiles = fitting if everything else few
            found += [compiled(name, arch, tile) for tile in tiles]
            found += [compiled("persistent", arch, tile) for tile in tiles if name == "up"]
        found += [compiled(name, arch, None) for name in OTHERS]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
