"""A link of its own between two places on this machine, with a set bandwidth and latency."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from grainline.hardware.unequal.helpers.owner import call
from grainline.hardware.unequal.measure import Way, measure_way
from grainline.hardware.unequal.process import Helper, NotAllowed, helper

NAME = "link0"  # the device in both places
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PACKET_SECONDS = 1e-4  # packets as large as the link carries in this time: small beside a message, few for the CPU
PACKET_BYTES = (1500, 60_000)
BURST_PACKETS = 3  # a bucket of one segment alone, of two packets, would have to be full to the brim each time
HEADERS_BYTES = 52  # of IP and TCP with its time stamp
WINDOWS_BYTES = "4096 4194304 67108864"  # least, to begin with, most
FRAME_BYTES = 14  # which tbf counts on Ethernet devices, as a veth is


@dataclass(frozen=True)
class End:
    """One of the link's two places: a network namespace. Programs in it see the link as `interface`, and no other."""

    address: str
    holder: int  # a process in it
    as_user: bool  # it belongs to a user namespace, because this user may make none otherwise
    interface: str = NAME

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` in this place."""
        user = ["-U", "--preserve-credentials"] if self.as_user else []
        return ["nsenter", *user, "-t", str(self.holder), "-n", "--", *command]

    def enter(self) -> None:
        """Move this process here, for good. A process of one thread, before it opens any socket."""
        try:
            if self.as_user:
                _set_namespace(self.holder, "user", CLONE_NEWUSER)
            _set_namespace(self.holder, "net", CLONE_NEWNET)
        except OSError as error:
            raise NotAllowed(f"this process can't move to the link's end {self.address}: {error}") from None

    def run(self, *command: str) -> None:
        """Run a command of network configuration here; NotAllowed with its words if it fails."""
        done = subprocess.run(self.command(command), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise NotAllowed(f"no link can be made here: '{' '.join(command)}' says: {said[0] if said else 'nothing'}")


@dataclass(frozen=True)
class Link:
    """A running link between `ends`. `there` and `back` are measured from the first end to the second, and back."""

    ends: tuple[End, End]
    bytes_per_second: float | None  # wanted, each way; None: as fast as the machine
    latency_seconds: float  # wanted, added each way
    there: Way | None
    back: Way | None
    tunnel: Helper | None

    def cpu_seconds(self) -> float:
        """CPU time used so far by the process that makes the latency; 0 where none is asked for."""
        return float(self.tunnel.ask("cpu")["cpu_seconds"]) if self.tunnel else 0.0


@contextmanager
def shaped_link(
    bytes_per_second: float | None = None, *, latency_seconds: float = 0.0, measure_seconds: float = 0.6
) -> Iterator[Link]:
    """While the block runs, two network namespaces are joined by a link of such bandwidth and latency.

    Bandwidth is set by `tc tbf` and counts payload of TCP. Without latency the link is a veth; with it, a TUN device in
    each namespace and a process of ours that holds every packet for a while: what uses the network needs no change.
    Needs iproute2 and util-linux; and root, or a kernel that lets users make user namespaces. Both ways are measured
    (0 seconds: not). The namespaces have no name and end with their processes: nothing is left, also after a kill.

    Raises NotAllowed that says what is missing.
    """
    if bytes_per_second is not None and bytes_per_second < 1000:
        raise ValueError(f"a link of {bytes_per_second} bytes per second: must be 1000 or more")
    if latency_seconds < 0:
        raise ValueError(f"a latency of {latency_seconds} seconds: must be 0 or more")
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            raise NotAllowed(f"no link can be made here: there is no '{tool}'. Install {package}.")
    with ExitStack() as stack:
        try:
            spaces = stack.enter_context(helper("spaces", {})).found
        except NotAllowed as error:
            raise NotAllowed(
                f"no network namespaces can be made here: {error}. Run as root, or let users make user namespaces "
                "(sysctl kernel.unprivileged_userns_clone, or kernel.apparmor_restrict_unprivileged_userns)."
            ) from None
        first, second = (
            End(address, holder, spaces["as_user"])
            for address, holder in zip(ADDRESSES, spaces["holders"], strict=True)
        )
        tunnel = _join(first, second, latency_seconds, stack)
        for end, other in ((first, second), (second, first)):
            _configure(end, other, bytes_per_second, tunnel is not None)
        link = Link((first, second), bytes_per_second, latency_seconds, None, None, tunnel)
        if measure_seconds:
            there = _measure(first, second, bytes_per_second, measure_seconds)
            link = replace(link, there=there, back=_measure(second, first, bytes_per_second, measure_seconds))
        yield link


def _join(first: End, second: End, latency_seconds: float, stack: ExitStack) -> Helper | None:
    if not latency_seconds:
        peer = ["peer", "name", NAME, "netns", str(second.holder)]
        first.run("ip", "link", "add", NAME, "type", "veth", *peer)
        return None
    spaces = [os.open(f"/proc/{end.holder}/ns/net", os.O_RDONLY) for end in (first, second)]
    try:
        settings = {"spaces": spaces, "name": NAME, "latency_seconds": latency_seconds}
        user = [] if not first.as_user else first.command([])[: first.command([]).index("-n")]
        return stack.enter_context(helper("tunnel", settings, files=spaces, prefix=user))
    except NotAllowed as error:
        raise NotAllowed(f"no link with latency can be made here: {error}. It needs /dev/net/tun.") from None
    finally:
        for space in spaces:
            os.close(space)


def _configure(end: End, other: End, bytes_per_second: float | None, tun: bool) -> None:
    packet = PACKET_BYTES[1]
    if bytes_per_second is not None:
        packet = int(min(max(bytes_per_second * PACKET_SECONDS, PACKET_BYTES[0]), PACKET_BYTES[1]))
    end.run("ip", "link", "set", "lo", "up")
    end.run("ip", "link", "set", NAME, "mtu", str(packet), "txqueuelen", "10000", "up")
    end.run("ip", "address", "add", f"{end.address}/32", "peer", f"{other.address}/32", "dev", NAME)
    # The link's rate at all times: not slowly again after a pause, and no small windows before a long way.
    for key, value in (("tcp_slow_start_after_idle", "0"), ("tcp_rmem", WINDOWS_BYTES), ("tcp_wmem", WINDOWS_BYTES)):
        end.run("sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{key}")
    if bytes_per_second is not None:
        frame = 0 if tun else FRAME_BYTES
        wire = bytes_per_second * 8 * (packet + frame) / (packet - HEADERS_BYTES)
        if not tun:
            end.run("ip", "link", "set", "dev", NAME, "gso_max_size", str(2 * packet))
        shape = ["rate", f"{round(wire)}bit", "burst", str(BURST_PACKETS * packet), "limit", str(64 << 20)]
        end.run("tc", "qdisc", "add", "dev", NAME, "root", "tbf", *shape)


def _measure(near: End, far: End, guess: float | None, seconds: float) -> Way:
    return measure_way(near.command([]), far.command([]), host=far.address, seconds=seconds, bytes_per_second=guess)


def _set_namespace(pid: int, kind: str, flag: int) -> None:
    space = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    try:
        ctypes.set_errno(0)
        call("setns", space, flag)
    finally:
        os.close(space)
