"""Unequal hardware on one machine: a slower core, a narrower link, a longer way; each measured when it is made.

Nothing here needs torch, and nothing is left behind: helper processes put everything back, also after a kill.
"""

from grainline.hardware.unequal.allowed import not_allowed
from grainline.hardware.unequal.cpu import Slowed, pin, slowed
from grainline.hardware.unequal.link import End, Link, shaped_link
from grainline.hardware.unequal.measure import Way, measure_way
from grainline.hardware.unequal.process import NotAllowed, cpu_seconds

# Not under its own name: the module is called the same.
from grainline.hardware.unequal.relay import Relay, relay

__all__ = [
    "End",
    "Link",
    "NotAllowed",
    "Relay",
    "Slowed",
    "Way",
    "cpu_seconds",
    "measure_way",
    "not_allowed",
    "pin",
    "relay",
    "shaped_link",
    "slowed",
]
