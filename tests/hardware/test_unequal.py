"""Unequal hardware on one machine: that it is there, that it is measured, and that nothing of it is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grainline.hardware.unequal import (
    NotAllowed,
    allowed,
    cpu,
    cpu_seconds,
    groups,
    link,
    measure_way,
    not_allowed,
    pin,
    process,
    relay,
    shaped_link,
    slowed,
)
from grainline.hardware.unequal.helpers import delay
from grainline.hardware.unequal.helpers.delay import Delay, soonest

linux = pytest.mark.skipif(sys.platform != "linux", reason="made of Linux's means")
SPIN = [sys.executable, "-S", "-c", "while True: pass"]
PATIENCE_SECONDS = 20.0


@pytest.fixture
def target() -> Iterator[int]:
    """A process that computes."""
    running = subprocess.Popen(SPIN)
    yield running.pid
    running.kill()
    running.wait()


@contextlib.contextmanager
def allowed_here() -> Iterator[None]:
    """Skips, in this machine's words, what it doesn't allow."""
    try:
        yield
    except NotAllowed as error:
        pytest.skip(str(error))


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def state(pid: int) -> str:
    """R, S, T (stopped), Z …; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                children.append(int(folder.name))
    return [found for child in children for found in (child, *descendants(child))]


@contextlib.contextmanager
def another(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that has run `code`, has said so, and stays there until it is killed."""
    code = f"from grainline.hardware.unequal import *\n{code}"
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert running.stdout is not None
    try:
        if running.stdout.readline() != b"ready\n":
            pytest.fail("it didn't begin")
        yield running
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


WAIT = "print('ready', flush=True); import time; time.sleep(100)"


HASH = """
import hashlib, socket, sys
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
line, _ = server.accept()
found = hashlib.sha256()
while piece := line.recv(1 << 20):
    found.update(piece)
print(found.hexdigest())
"""
SEND = """
import socket, sys
socket.create_connection((sys.argv[1], 5000)).sendall(bytes(range(256)) * 20000)
"""


# What needs no rights: delays and the relay.


def test_a_delay_holds_every_piece_for_its_time_and_keeps_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(delay.time, "monotonic", lambda: now)
    held = Delay(5.0)
    assert held.due() is None
    assert held.wait_seconds() is None
    held.put(b"first")
    now = 2.0
    held.put(b"second")
    assert held.held_bytes == 11
    assert held.wait_seconds() == 3.0
    now = 5.0
    assert held.due() == b"first"
    held.take(2)  # the other end took two bytes
    assert held.due() == b"rst"
    held.take(3)
    assert held.due() is None
    assert (held.held_bytes, held.wait_seconds()) == (6, 2.0)
    now = 9.0
    assert (held.due(), held.wait_seconds()) == (b"second", 0.0)
    assert soonest(None, 3.0, 1.0) == 1.0
    assert soonest(None) is None


def test_a_delay_is_full_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay, "MOST_BYTES", 10)
    held = Delay(1.0)
    held.put(bytes(9))
    assert not held.full
    held.put(bytes(1))
    assert held.full


@linux
def test_a_relay_changes_nothing_but_the_time() -> None:
    """Both directions at once, more than any buffer, and each end says that it has finished."""
    data, answer = os.urandom(9_000_000), os.urandom(5_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        got: list[bytes] = []

        def serve() -> None:
            line, _ = server.accept()
            with line:
                sender = threading.Thread(target=line.sendall, args=(answer,))
                sender.start()
                got.append(read_all(line))
                sender.join()

        thread = threading.Thread(target=serve)
        thread.start()
        with relay(server.getsockname(), 0.02, measure=False) as running:
            began = time.monotonic()
            with socket.create_connection(running.address) as line:
                sender = threading.Thread(target=lambda: (line.sendall(data), line.shutdown(socket.SHUT_WR)))
                sender.start()
                back = read_all(line)
                sender.join()
                thread.join()
            took = time.monotonic() - began
            assert digest(got[0]) == digest(data)
            assert digest(back) == digest(answer)
            assert took >= 0.02
            assert running.measured_latency_seconds is None
            assert 0 < running.cpu_seconds() <= running.cpu_seconds()
    assert not running.process.running


def read_all(line: socket.socket) -> bytes:
    pieces = []
    while piece := line.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@linux
def test_a_relay_is_measured_and_outlives_connections_that_fail() -> None:
    with relay(("127.0.0.1", 1), 0.01) as running:  # nothing listens on port 1
        assert running.measured_latency_seconds is not None
        assert running.measured_latency_seconds >= 0.009
        for _ in range(2):
            with socket.create_connection(running.address) as line:
                assert line.recv(1) == b""
        assert running.process.running


@linux
def test_a_relay_ends_with_its_owner() -> None:
    with another(f"with relay(('127.0.0.1', 1), 0.01, measure=False) as r: {WAIT}") as running:
        helpers = descendants(running.pid)
        assert helpers
        running.kill()
        until(lambda: not any(state(h) not in ("", "Z") for h in helpers), "the relay goes on")


@linux
def test_ways_are_measured() -> None:
    way = measure_way(seconds=0.02, trips=5)
    assert way.latency_seconds > 0
    assert way.bytes_per_second is not None
    assert way.bytes_per_second > 1e6
    assert measure_way(seconds=0, trips=5).bytes_per_second is None


# Cores.


@linux
def test_pinned_threads_and_all(target: int) -> None:
    core = max(os.sched_getaffinity(0))
    code = "import threading, sys\nfor _ in range(2): threading.Thread(target=sys.stdin.read).start()\nprint('ready')"
    with subprocess.Popen(
        [sys.executable, "-S", "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        running.stdout.readline()
        pin(running.pid, core)
        threads = os.listdir(f"/proc/{running.pid}/task")
        assert len(threads) == 3
        assert all(os.sched_getaffinity(int(thread)) == {core} for thread in threads)
        running.stdin.close()
    with pytest.raises(NotAllowed, match=rf"process {target} can't be pinned to core 9999: .*Cores of this process: "):
        pin(target, 9999)
    with pytest.raises(ProcessLookupError):
        pin(running.pid, core)


@linux
def test_cpu_time_is_the_processes_own() -> None:
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.5)
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        cpu_seconds(gone.pid)


@pytest.mark.parametrize(
    ("share", "period", "message"),
    [(0, 0.01, "share of 0"), (1.5, 0.01, "at most 1"), (0.5, 0.0, "period of 0.0 seconds"), (0.5, 2.0, "to 1")],
)
def test_a_share_that_is_none(share: float, period: float, message: str) -> None:
    with pytest.raises(ValueError, match=message), slowed(1, share, period_seconds=period):
        pass


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = {
    "proc/7/cgroup": "2:cpu,cpuacct:/jobs\n0::/\n",
    "sys/fs/cgroup/cpu/cgroup.procs": "",
    "sys/fs/cgroup/cpu/jobs/cgroup.procs": "7\n",
    "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us": "-1\n",
}
V2 = {
    "proc/7/cgroup": "0::/user/session/shell\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/cgroup.procs": "",
    "sys/fs/cgroup/cgroup.subtree_control": "cpu\n",
    "sys/fs/cgroup/user/cgroup.procs": "",
    "sys/fs/cgroup/user/cgroup.subtree_control": "memory cpu\n",
    "sys/fs/cgroup/user/session/cgroup.procs": "",
    "sys/fs/cgroup/user/session/cgroup.subtree_control": "memory\n",
    "sys/fs/cgroup/user/session/shell/cgroup.procs": "7\n",
    "sys/fs/cgroup/user/session/shell/cgroup.subtree_control": "\n",
}


def test_where_a_quota_goes_in_either_generation(tmp_path: Path) -> None:
    one = groups.place_for(7, lay_out(tmp_path / "1", V1))
    own = tmp_path / "1/sys/fs/cgroup/cpu/jobs"
    assert one == groups.Place("cgroup v1", own, own / "cgroup.procs")
    assert list(one.files(0.25, 0.02).items()) == [("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "5000")]
    two = groups.place_for(7, lay_out(tmp_path / "2", V2))
    user = tmp_path / "2/sys/fs/cgroup/user"
    assert two == groups.Place("cgroup v2", user, user / "session/shell/cgroup.procs")
    assert two.files(1.5, 0.1) == {"cpu.max": "150000 100000"}
    assert two.files(0.01, 0.01) == {"cpu.max": "1000 10000"}  # the kernel takes no less


def test_why_there_is_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert groups.place_for(7, tmp_path) == "no control group for CPU time is mounted"
    without = {name: "memory\n" if name.endswith("control") else content for name, content in V2.items()}
    reason = groups.place_for(7, lay_out(tmp_path / "2", without))
    assert isinstance(reason, str)
    assert "hands CPU time on to its children" in reason
    root = lay_out(tmp_path / "1", V1)
    monkeypatch.setattr(groups.os, "access", lambda path, how: False)
    assert str(groups.place_for(7, root)).endswith("sys/fs/cgroup/cpu/jobs can't be written by this user")


@linux
def test_groups_of_the_dead_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(tmp_path, {"proc/self/cgroup": "2:cpu:/\n", "sys/fs/cgroup/cpu/cgroup.procs": ""})
    tree = root / "sys/fs/cgroup/cpu"
    ours = groups.Place("cgroup v1", tree, tree / "cgroup.procs").new()
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    dead = [
        tree / f"grainline-{gone.pid}-123-ab",
        tree / f"grainline-{os.getpid()}-1-ab",
    ]  # its number is another's now
    for folder in (ours, *dead, tree / "grainline-notes", tree / "system.slice"):
        folder.mkdir()
    swept: list[Path] = []
    monkeypatch.setattr(groups, "dissolve", lambda folder, back: swept.append(folder))
    assert groups.sweep(root) == 2
    assert sorted(swept) == sorted(dead)


def cpu_group(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next((line for line in lines if "cpu" in line.split(":")[1].split(",")), lines[-1])


@linux
def test_a_quota_is_set_counts_and_goes(target: int) -> None:
    before = cpu_group(target)
    with allowed_here(), slowed(target, 0.25, how="quota", measure_seconds=0) as got:
        here = cpu_group(target)
        name = here.rpartition("/")[2]
        assert name.startswith(f"grainline-{os.getpid()}-")
        place = groups.place_for(os.getpid())
        assert isinstance(place, groups.Place)
        folder = place.parent / name
        limits = {file: (folder / file).read_text().strip() for file in place.files(0.25, 0.01)}
        assert limits == place.files(0.25, 0.01)
        until(lambda: throttled(folder) > 2, "the quota never binds")
        assert 0 < got.used_share() < 0.6
        assert got.how == f"{place.generation} quota"
        assert (got.spin_share, got.free_share, got.why_no_quota) == (None, None, "")
    assert cpu_group(target) == before
    assert not folder.exists()
    assert state(target) in "RS"


def throttled(folder: Path) -> int:
    lines = (folder / "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled"))


@linux
@pytest.mark.parametrize("how", ["quota", "duty cycle"])
def test_what_a_share_comes_to_is_measured(target: int, how: cpu.How) -> None:
    with allowed_here(), slowed(target, 0.5, how=how, measure_seconds=0.1) as got:
        assert got.spin_share is not None
        assert 0 < got.spin_share < 0.9
        assert got.free_share is not None
        assert 0 < got.free_share <= 1.1


@linux
def test_a_duty_cycle_stops_and_continues(target: int) -> None:
    with allowed_here(), slowed(target, 0.5, how="duty cycle", period_seconds=0.02, measure_seconds=0) as got:
        assert got.why_no_quota == "a duty cycle was asked for"
        for _ in range(3):
            until(lambda: state(target) == "T", "it is never stopped")
            until(lambda: state(target) != "T", "it is never continued")
    assert never_stopped(target)


def never_stopped(pid: int) -> bool:
    """Looked at for many periods' time."""
    return all(state(pid) not in ("T", time.sleep(0.001)) for _ in range(200))


@linux
def test_without_a_quota_there_is_a_duty_cycle_or_a_word_why_not(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "place_for", lambda pid: "no control group for CPU time is mounted")
    with allowed_here(), slowed(target, 0.5, how="any", measure_seconds=0) as got:
        assert (got.how, got.why_no_quota) == ("duty cycle", "no control group for CPU time is mounted")
    refused = pytest.raises(NotAllowed, match=rf"process {target} can't be given a CPU quota: no control group")
    with refused, slowed(target, 0.5, how="quota", measure_seconds=0):
        pass


@linux
@pytest.mark.parametrize("waited_for", [True, False])
def test_a_process_may_end_while_it_is_slowed(target: int, waited_for: bool) -> None:
    before = set(descendants(os.getpid()))
    with allowed_here(), slowed(target, 0.5, how="duty cycle", measure_seconds=0):
        watcher = next(pid for pid in descendants(os.getpid()) if pid not in before)
        os.kill(target, signal.SIGKILL)
        until(lambda: state(target) == "Z", "it doesn't end")
        until(lambda: state(watcher) == "Z", "the helper doesn't notice")
        if waited_for:
            os.waitpid(target, 0)


@linux
def test_a_whole_share_changes_nothing(target: int) -> None:
    before = cpu_group(target)
    with slowed(target, 1.0, measure_seconds=0) as got:
        assert got.how == "not slowed"
        assert cpu_group(target) == before


@linux
@pytest.mark.parametrize("victim", ["owner", "watcher", "beater"])
def test_nothing_stays_stopped_whoever_is_killed(target: int, victim: str) -> None:
    code = f"with slowed({target}, 0.2, how='duty cycle', period_seconds=0.1, measure_seconds=0): {WAIT}"
    with another(code) as running:
        watcher, beater = descendants(running.pid)
        until(lambda: state(target) == "T", "it is never stopped")
        os.kill({"owner": running.pid, "watcher": watcher, "beater": beater}[victim], signal.SIGKILL)
        until(lambda: all(state(helper) in ("", "Z") for helper in (watcher, beater)), "a helper goes on")
        assert never_stopped(target)


@linux
def test_a_throttle_that_was_killed_is_told_of(target: int) -> None:
    before = set(descendants(os.getpid()))

    def kill_the_helper() -> None:
        with allowed_here(), slowed(target, 0.5, how="duty cycle", measure_seconds=0):
            watcher, _ = (pid for pid in descendants(os.getpid()) if pid not in before)
            os.kill(watcher, signal.SIGKILL)
            until(lambda: state(watcher) == "Z", "it doesn't end")

    with pytest.raises(RuntimeError, match="has run at full speed since"):
        kill_the_helper()


@linux
@pytest.mark.parametrize("victim", ["owner", "helper"])
def test_no_group_is_left_whoever_is_killed(target: int, victim: str) -> None:
    before = cpu_group(target)
    if isinstance(reason := groups.place_for(target), str):
        pytest.skip(reason)
    with another(f"with slowed({target}, 0.2, how='quota', measure_seconds=0): {WAIT}") as running:
        [helper] = descendants(running.pid)
        folder = reason.parent / cpu_group(target).rpartition("/")[2]
        assert folder.exists()
        os.kill(running.pid if victim == "owner" else helper, signal.SIGKILL)
        if victim == "helper":  # then the next one to come this way cleans up, once the owner is gone
            groups.sweep()
            assert folder.exists()
            running.kill()
            running.wait()
            groups.sweep()
            assert not folder.exists()
        until(lambda: not folder.exists(), "the group is left")
        assert cpu_group(target) == before


# Links.


@contextlib.contextmanager
def linked(bytes_per_second: float | None, latency: float = 0.0, measure: float = 0.0) -> Iterator[link.Link]:
    with allowed_here(), shaped_link(bytes_per_second, latency_seconds=latency, measure_seconds=measure) as made:
        yield made


def said(end: link.End, *command: str) -> str:
    return subprocess.run(end.command(command), capture_output=True, text=True, check=True).stdout


@linux
def test_a_link_joins_two_places_and_no_other() -> None:
    outside = sorted(name for _, name in socket.if_nameindex())
    with linked(2e6) as made:
        there, back = made.ends
        assert said(there, "ip", "-brief", "address", "show", "dev", "link0").split()[2:4] == ["10.77.0.1", "peer"]
        assert "10.77.0.2/32" in said(there, "ip", "route", "show", "dev", "link0") + said(there, "ip", "address")
        for end in made.ends:
            shape = said(end, "tc", "qdisc", "show", "dev", "link0")
            assert "qdisc tbf" in shape
            assert "rate 16" in shape  # and the headers
            names = {line.split(": ")[1].split("@")[0] for line in said(end, "ip", "-o", "link").splitlines()}
            assert {"lo", "link0"} <= names
            assert not names & set(outside) - {"lo", *default_devices()}
        assert sorted(name for _, name in socket.if_nameindex()) == outside
        assert made.cpu_seconds() == 0
        code = "import socket; print([name for _, name in socket.if_nameindex()])"
        enter = f"from grainline.hardware.unequal import End; End('', {back.holder}, {back.as_user}).enter()\n{code}"
        inside = subprocess.run([sys.executable, "-c", enter], capture_output=True, text=True, check=True).stdout
        assert "link0" in inside


def default_devices() -> set[str]:
    """That some kernels put into every new namespace."""
    return {"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}


@linux
def test_a_link_is_as_narrow_as_wanted() -> None:
    with linked(2e6, measure=0.2) as made:
        for way in (made.there, made.back):
            assert way is not None
            assert way.bytes_per_second is not None
            assert way.bytes_per_second < 2.4e6  # more, no machine may give; less, a busy one does
            assert way.latency_seconds > 0


@linux
def test_a_link_is_as_long_as_wanted_and_hands_on_what_it_gets() -> None:
    with linked(None, 0.03, measure=0.05) as made:
        assert made.there is not None
        assert made.there.latency_seconds >= 0.03
        assert made.cpu_seconds() > 0
        first, second = made.ends
        with subprocess.Popen(
            second.command([sys.executable, "-S", "-c", HASH, second.address]), stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            server.stdout.readline()
            subprocess.run(first.command([sys.executable, "-S", "-c", SEND, second.address]), check=True)
            assert server.stdout.read().strip() == digest(bytes(range(256)) * 20000)


GLOO = """
import sys, time, torch, torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"tcp://{sys.argv[2]}:29500", rank=rank, world_size=2)
tensor = torch.full((1000,), 1.0 + rank)
dist.all_reduce(tensor)
dist.barrier()
start = time.perf_counter()
(dist.send if rank == 0 else dist.recv)(tensor, 1 - rank)
(dist.recv if rank == 0 else dist.send)(tensor, 1 - rank)
print(float(tensor.sum()), time.perf_counter() - start)
dist.destroy_process_group()
"""


@linux
@pytest.mark.multiprocess
def test_gloo_takes_the_link_as_any_other_network() -> None:
    with linked(20e6, 0.02) as made:
        env = {**os.environ, "GLOO_SOCKET_IFNAME": made.ends[0].interface, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                end.command([sys.executable, "-c", GLOO, str(rank), made.ends[0].address]),
                env=env,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, end in enumerate(made.ends)
        ]
        said_by = [running.communicate(timeout=100)[0].split() for running in started]
        assert [float(words[0]) for words in said_by] == [3000.0, 3000.0]
        assert float(said_by[0][1]) >= 0.04  # there and back


@linux
@pytest.mark.parametrize("latency", [0.0, 0.01])
def test_no_namespace_outlives_its_owner(latency: float) -> None:
    with linked(1e6, latency):
        pass
    named = set(Path("/run/netns").glob("*"))
    with another(f"with shaped_link(1e6, latency_seconds={latency}, measure_seconds=0): {WAIT}") as running:
        helpers = descendants(running.pid)
        made = namespaces(helpers) - namespaces([os.getpid()])
        assert len(made) == 2
        running.kill()
        until(lambda: all(state(helper) in ("", "Z") for helper in helpers), "a helper goes on")
        everybody = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        assert not made & namespaces(everybody)
        assert set(Path("/run/netns").glob("*")) <= named


def namespaces(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
    return found


@linux
def test_a_link_without_root() -> None:
    """Inside a user namespace of one's own, where the kernel lets users make one."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("shown by root, who becomes nobody, with the system's Python")
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
    code += "from grainline.hardware.unequal import *\ntry:\n"
    code += " with shaped_link(1e6, latency_seconds=0.001, measure_seconds=0) as made: print(made.ends[0].as_user)\n"
    code += "except NotAllowed as error: print(error)"
    done = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
    )
    if done.returncode != 0:
        pytest.skip(f"nobody can't run grainline here: {done.stderr.strip().splitlines()[-1]}")
    if "user namespaces" in done.stdout:
        pytest.skip(done.stdout)
    assert done.stdout == "True\n"


def test_what_a_link_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="1000 or more"), shaped_link(10):
        pass
    with pytest.raises(ValueError, match="0 or more"), shaped_link(1e6, latency_seconds=-1):
        pass
    with pytest.raises(ValueError, match="0 or more"), relay(("127.0.0.1", 1), -1):
        pass
    which = shutil.which
    monkeypatch.setattr(link.shutil, "which", lambda tool: None if tool == "tc" else which("sh"))
    refused = pytest.raises(NotAllowed, match=r"no link can be made here: there is no 'tc'\. Install iproute2")
    with refused, shaped_link(1e6):
        pass


@linux
def test_a_command_that_fails_speaks_for_itself() -> None:
    with linked(None) as made, pytest.raises(NotAllowed, match=r"'ip link set nothing up' says: .*nothing"):
        made.ends[0].run("ip", "link", "set", "nothing", "up")


def test_elsewhere_than_on_linux_everything_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "platform", "darwin")
    monkeypatch.setattr(allowed, "place_for", lambda pid: "no control group for CPU time is mounted")
    monkeypatch.setattr(link.shutil, "which", lambda tool: None)
    reasons = not_allowed()
    assert list(reasons) == ["quota", "duty cycle", "bandwidth", "latency"]
    assert "Linux's means" in reasons["duty cycle"]
    assert "there is no 'ip'" in reasons["bandwidth"]


@linux
def test_helpers_that_fail_say_why() -> None:
    before = descendants(os.getpid())
    refused = pytest.raises(NotAllowed, match=r"no relay can listen on 192\.0\.2\.1")
    with refused, relay(("127.0.0.1", 1), 0.0, listen="192.0.2.1", measure=False):
        pass
    with pytest.raises(RuntimeError, match=r"the helper 'nothing' ended: (?s:.*)ImportError"):
        process.helper("nothing", {}).__enter__()
    assert descendants(os.getpid()) == before


@linux
def test_torch_is_not_needed() -> None:
    code = "import sys, grainline.hardware.unequal; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
