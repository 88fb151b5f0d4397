# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a node, read from /proc."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

LISTEN = "0A"
TITLE = "VLLM::"
"""vLLM's engine and workers name themselves so; `ps | grep python` misses them."""
MARK = "INFEROPS_VLLM_INSTANCE"
"""Environment variable that the launcher sets and the engine inherits."""
CONTROL_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where version 2 of control groups is mounted: alone, or beside version 1."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
"""Of prctl(2)."""
CAP_SYS_RESOURCE = 24
"""Of capabilities(7): may lift limits."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

Found = TypeVar("Found")


@dataclass(frozen=True)
class Process:
    pid: int
    name: str


@dataclass(frozen=True)
class Stat:
    name: str
    state: str
    """One letter of proc(5): R, S, D, T (stopped), Z (gone, not yet reaped)."""
    start_ticks: int
    """When it started, in clock ticks since boot: with its pid, the identity of a process."""
    cpu_seconds: float
    parent: int = 0

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


@dataclass(frozen=True)
class Work:
    """What processes have done since their start."""

    cpu_seconds: float = 0.0
    read_bytes: int = 0

    def exceeds(self, before: Work, cpu_seconds: float, read_bytes: int) -> bool:
        """Whether that much was done since; less than before means that a process of them has gone."""
        return (
            not 0 <= self.cpu_seconds - before.cpu_seconds < cpu_seconds
            or not 0 <= self.read_bytes - before.read_bytes < read_bytes
        )


def processes(proc: str = "/proc") -> Iterator[Process]:
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            with open(f"{proc}/{entry}/comm", encoding="utf-8", errors="replace") as stream:
                yield Process(int(entry), stream.read().strip())
        except OSError:
            continue  # gone since the listing


def belongs_to(pid: int, instance: str) -> bool:
    """Whether the process was started, directly or not, by the launcher of that instance."""
    try:
        return f"{MARK}={instance}".encode() in _as_root(_read, f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _links(folder: str) -> list[str]:
    """What the links in a folder point to."""
    found = []
    for entry in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed since the listing
            found.append(os.readlink(f"{folder}/{entry}"))
    return found


def _as_root(look: Callable[[str], Found], path: str) -> Found:
    """Look at what a process shows to root: in a container root may have to do it as the owner."""
    try:
        return look(path)
    except PermissionError:
        if os.geteuid():
            raise
        with _owner_of(path):
            return look(path)


@contextlib.contextmanager
def _owner_of(path: str) -> Iterator[None]:
    """Be its owner, in this thread and for files alone."""
    owner = os.stat(path)
    libc = ctypes.CDLL(None)
    group, user = libc.setfsgid(owner.st_gid), libc.setfsuid(owner.st_uid)
    try:
        yield
    finally:
        libc.setfsuid(user)
        libc.setfsgid(group)


def control(option: int, value: int) -> None:
    """prctl(2) of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl {option}: {os.strerror(error)}")


def capable(capability: int) -> bool:
    """Whether this process has it."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        told = next((line for line in stream if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(told.split()[1], 16) >> capability & 1)


def marked(instance: str) -> list[int]:
    """Every process that the launcher of that instance has started, directly or not."""
    return [found.pid for found in processes() if belongs_to(found.pid, instance)]


def leftovers(instance: str) -> list[Process]:
    """Engine processes of an instance: before its start there should be none."""
    return [found for found in processes() if found.name.startswith(TITLE) and belongs_to(found.pid, instance)]


def wait_gone(pids: list[int], timeout_seconds: float) -> list[int]:
    """Wait for processes to go; those that did not."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        pids = [pid for pid in pids if living(pid)]
        if not pids or time.monotonic() >= deadline:
            return pids
        time.sleep(0.1)


def living(pid: int) -> Stat | None:
    """What the kernel says of a process, None also where all that is left of it waits to be reaped."""
    found = stat(pid)
    return found if found and found.state not in "ZX" else None


def here(pid: int, namespace: str) -> int:
    """What a process of another pid namespace is called in this one; 0 where it is not seen here."""
    if namespace in ("", pid_namespace()):
        return pid
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if _as_root(os.readlink, f"/proc/{entry}/ns/pid") == namespace and _innermost_pid(entry) == pid:
                return int(entry)
    return 0


def pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _innermost_pid(entry: str) -> int:
    """What a process is called in its own namespace."""
    with open(f"/proc/{entry}/status", encoding="utf-8", errors="replace") as stream:
        told = next((line for line in stream if line.startswith("NSpid:")), "")
    return int(told.split()[-1]) if told else 0


def stat(pid: int, proc: str = "/proc") -> Stat | None:
    """What the kernel says of a process, None where there is none."""
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name in parentheses may hold anything, so the fields are read from behind it.
            head, _parenthesis, rest = stream.read().rpartition(")")
    except OSError:
        return None
    fields = rest.split()
    cpu_ticks = int(fields[11]) + int(fields[12])
    return Stat(head.partition("(")[2], fields[0], int(fields[19]), cpu_ticks / TICKS_PER_SECOND, int(fields[1]))


def boot_id(proc: str = "/proc") -> str:
    """Tells one boot of this host from another; empty where the kernel does not tell."""
    try:
        with open(f"{proc}/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def age_seconds(start_ticks: int) -> float:
    """Seconds since a process was started."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / TICKS_PER_SECOND)


def read_bytes(pid: int) -> int:
    """Bytes that a process has read, from the page cache too; 0 where this user may not know."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as stream:
            return int(stream.readline().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def waited_seconds(pid: int) -> float:
    """How long the main thread of a process has waited for a processor, ever; 0 where the kernel does not count it."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as stream:
            return int(stream.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def control_group(pid: int) -> list[int]:
    """The processes in the same control group."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            path = stream.read().rpartition("0::")[2].strip()
    except OSError:
        return [pid]
    for root in CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError), open(f"{root}{path}/cgroup.procs", encoding="ascii") as stream:
            return [int(line) for line in stream]
    return [pid]


def commands(verb: str) -> Iterator[tuple[int, list[str]]]:
    """Root's own `vllm-instance <verb> ...`: pid and command line of each."""
    for found in processes():
        with contextlib.suppress(OSError), open(f"/proc/{found.pid}/cmdline", "rb") as stream:
            arguments = stream.read().decode(errors="replace").split("\0")[:-1]
            # Behind the interpreter and its option.
            ours = len(arguments) > 2 and arguments[-2] == verb and arguments[-3].endswith("/vllm-instance")
            if ours and os.fstat(stream.fileno()).st_uid == 0:
                yield found.pid, arguments


class Tree:
    """Who has started whom. All who ask within a second share one look at /proc."""

    MAX_AGE_SECONDS = 1.0

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._children: dict[int, list[int]] = {}
        self._seen_at = -math.inf

    def under(self, pid: int) -> list[int]:
        """A process, and all that it or they have started and nobody else has adopted."""
        if time.monotonic() - self._seen_at > self.MAX_AGE_SECONDS:
            self._look()
        found = [pid]
        for parent in found:
            found.extend(self._children.get(parent, []))
        return found

    def _look(self) -> None:
        self._seen_at = time.monotonic()
        self._children = {}
        for entry in filter(str.isdigit, os.listdir(self._proc)):
            seen = stat(int(entry), self._proc)
            if seen:
                self._children.setdefault(seen.parent, []).append(int(entry))


def listeners(ports: Collection[int], proc: str = "/proc") -> dict[int, Process | None]:
    """Those of the TCP ports that are listened on, each with its process; None where this user may not see it."""
    sockets = {inode: port for port, inode in _listening_sockets(proc) if port in ports}
    found: dict[int, Process | None] = dict.fromkeys(sorted(sockets.values()))
    if not sockets:
        return {}
    # Children share their parent's socket: the oldest, told last, is the one to name. Pids are reused, ages are not.
    for process in sorted(processes(proc), key=lambda seen: _start_ticks(seen.pid, proc), reverse=True):
        for inode in _sockets(process.pid, proc) & sockets.keys():
            found[sockets[inode]] = process
    return found


def _start_ticks(pid: int, proc: str) -> tuple[int, int]:
    found = stat(pid, proc)
    return (found.start_ticks if found else 0, pid)


def _listening_sockets(proc: str) -> Iterator[tuple[int, str]]:
    """Port and inode of each."""
    for table in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{table}", encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == LISTEN:
                yield int(row[1].rpartition(":")[2], 16), row[9]


def _sockets(pid: int, proc: str) -> set[str]:
    """Inodes of the sockets that a process has open."""
    try:
        links = _as_root(_links, f"{proc}/{pid}/fd")
    except OSError:
        return set()  # gone, or not ours to see
    return {match[1] for match in (re.fullmatch(r"socket:\[(\d+)\]", link) for link in links) if match}
