"""The machine: what it has, and how fast that really is. No torch until `look` asks for accelerators or rates."""

# Not lazily: the function must be bound after the module of the same name.
from grainline.hardware.device import choose_device
from grainline.hardware.look import look
from grainline.hardware.machine import Accelerator, Machine

__all__ = ["Accelerator", "Machine", "choose_device", "look"]
