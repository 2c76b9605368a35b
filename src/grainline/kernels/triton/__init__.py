"""The expert layer by Triton kernels, after SonicMoE (arXiv 2512.14080), interpreted on CPUs for tests.

Nothing here imports triton before a kernel is run. `mixture` is the op and `launch` starts its kernels, which are in
`experts_kernel` and `router_kernel`; `tiles` knows the tile sizes that `tune` has measured.
"""
