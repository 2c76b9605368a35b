"""Which device computes."""

from __future__ import annotations

from grainline.documents import GrainlineError


def choose_device(wanted: str | None = None) -> str:
    """torch's name of the device to compute on, known to be there: "cpu", "cuda", "cuda:1", "mps".

    None and "auto" take a GPU where there is one, else the CPU. Raises GrainlineError that names what there is.
    """
    import torch

    there = ["cpu"]
    best = "cpu"
    if torch.cuda.is_available():
        there += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        best = "cuda"
    elif torch.backends.mps.is_available():
        there += ["mps"]
        best = "mps"
    if wanted in (None, "auto"):
        return best
    if wanted not in (*there, best):
        raise GrainlineError(
            f"device '{wanted}': torch finds no such device here. For torch {torch.__version__} (a build for "
            f"{torch_build()}) there is {', '.join(there)}. Take one of these, or leave the choice open."
        )
    return str(wanted)


def torch_build() -> str:
    """What torch was built for: "CPU", "CUDA 12.8" or "Metal"."""
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return "Metal" if torch.backends.mps.is_built() else "CPU"
