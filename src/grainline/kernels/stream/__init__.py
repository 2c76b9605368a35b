"""STREAM: copy, scale, add and triad of large arrays, on any target, with its result known in closed form.

After the first benchmark of that name (J. D. McCalpin, Memory Bandwidth and Machine Balance in Current High Performance
Computers, IEEE TCCA Newsletter, 1995), run through one generic source as in arXiv 2206.06302.
"""

from grainline.kernels.stream.backend import BODIES, Backend
from grainline.kernels.stream.benchmark import BYTES_OF, KERNELS, Stream, expected
from grainline.kernels.stream.blocked import Blocked
from grainline.kernels.stream.native import POLICIES, STORES, Native, instruction_sets
from grainline.kernels.stream.tensors import Tensors

__all__ = [
    "BODIES",
    "BYTES_OF",
    "KERNELS",
    "POLICIES",
    "STORES",
    "Backend",
    "Blocked",
    "Native",
    "Stream",
    "Tensors",
    "expected",
    "instruction_sets",
]
