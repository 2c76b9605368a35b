"""A wire with latency between two network namespaces: a TUN device in each, and this process carrying packets over.

Whatever uses the network goes through it unchanged, on any port, and so do programs that choose their ports themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import time

from . import owner
from .delay import Delay, soonest

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MOST_PACKET = 65536


def main() -> None:
    """Settings: spaces (files of both namespaces), name (of the device in each), latency_seconds."""
    wanted = owner.settings()
    try:
        ends = [_device(space, wanted["name"]) for space in wanted["spaces"]]
    except OSError as error:
        owner.tell(error=f"no TUN device: {error}")
        return
    owner.be_punctual()
    owner.tell(ok=True)
    person = owner.Owner(wanted["owner"])
    to = {ends[0]: (ends[1], Delay(wanted["latency_seconds"])), ends[1]: (ends[0], Delay(wanted["latency_seconds"]))}
    while True:
        reading = [end for end, (_, delay) in to.items() if not delay.full]
        waits = soonest(*(delay.wait_seconds() for _, delay in to.values()))
        ready = select.select([*person.files, *reading], (), (), waits)[0]
        if any(file in ready for file in person.files):
            if person.says(0) == "stop":
                return
            owner.tell(cpu_seconds=time.process_time())
        for end in reading:
            if end in ready:
                _read_all(end, to[end][1])
        for target, delay in to.values():
            while (packet := delay.due()) is not None:
                with contextlib.suppress(OSError):  # dropped, as wires do: the other end isn't up, or took no more
                    os.write(target, packet)
                delay.take(len(packet))


def _read_all(end: int, delay: Delay) -> None:
    try:
        while not delay.full:
            delay.put(os.read(end, MOST_PACKET))
    except BlockingIOError:
        pass


def _device(space: int, name: str) -> int:
    owner.call("setns", space, CLONE_NEWNET)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device
