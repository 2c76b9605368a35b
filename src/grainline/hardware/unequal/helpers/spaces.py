"""Two network namespaces that live as long as this process: nothing of them has a name that could be left behind."""

from __future__ import annotations

import os
import signal
import sys

from . import owner

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    """No settings. A user who isn't root gets a user namespace first, in which it may make the others."""
    wanted = owner.settings()
    holders: list[int] = []
    try:
        as_user = os.geteuid() != 0
        if as_user:
            _become_root_of_a_user_namespace()
        for _ in range(2):
            holders.append(_hold())
        owner.tell(ok=True, holders=holders, as_user=as_user)
        owner.Owner(wanted["owner"]).wait()
    except OSError as error:
        owner.tell(error=str(error))
    finally:
        for holder in holders:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)


def _become_root_of_a_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    owner.call("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _hold() -> int:
    """A process in a new network namespace that does nothing and dies with this one."""
    ready, done = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            owner.die_with_parent()
            owner.call("unshare", CLONE_NEWNET)
            os.write(done, b"1")
            while True:
                signal.pause()
        except OSError as error:
            os.write(done, str(error).encode())
        os._exit(0)
    os.close(done)
    said = os.read(ready, 4096).decode()
    os.close(ready)
    if said != "1":
        os.waitpid(holder, 0)
        raise OSError(said or f"a namespace's process ended ({sys.executable})")
    return holder
