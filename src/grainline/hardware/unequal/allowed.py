"""What this machine, and this user, don't allow of all this."""

from __future__ import annotations

import os

from grainline.hardware.unequal.groups import place_for
from grainline.hardware.unequal.link import shaped_link
from grainline.hardware.unequal.process import NotAllowed, helper


def not_allowed() -> dict[str, str]:
    """Kind of inequality → why it isn't to be had; empty where all are. Kinds: quota, duty cycle, bandwidth, latency.

    The relay, and a rank with more to do, are to be had anywhere.
    """
    found: dict[str, str] = {}
    place = place_for(os.getpid())
    if isinstance(place, str):
        found["quota"] = place
    try:
        with helper("spin", {"cores": []}):
            pass
    except NotAllowed as error:
        found["duty cycle"] = str(error)
    for kind, bytes_per_second, latency_seconds in (("bandwidth", 1e6, 0.0), ("latency", None, 1e-3)):
        try:
            with shaped_link(bytes_per_second, latency_seconds=latency_seconds, measure_seconds=0):
                pass
        except NotAllowed as error:
            found[kind] = str(error)
    return found
