# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a node, read from /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

LISTEN = "0A"
TITLE = "VLLM::"
"""vLLM's engine and workers name themselves so; `ps | grep python` misses them."""
MARK = "INFEROPS_VLLM_INSTANCE"
"""Environment variable that the launcher sets and the engine inherits."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    pid: int
    name: str


@dataclass(frozen=True)
class Stat:
    state: str
    """One letter of proc(5): R, S, D, T (stopped), Z (gone, not yet reaped)."""
    start_ticks: int
    """When it started, in clock ticks since boot: with its pid, the identity of a process."""
    cpu_seconds: float


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
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return f"{MARK}={instance}".encode() in stream.read().split(b"\0")
    except OSError:
        return False


def leftovers(instance: str) -> list[Process]:
    """Engine processes of an instance: before its start there should be none."""
    return [found for found in processes() if found.name.startswith(TITLE) and belongs_to(found.pid, instance)]


def wait_gone(pids: list[int], timeout_seconds: float) -> list[int]:
    """Wait for processes to go; those that did not."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        pids = [pid for pid in pids if _alive(pid)]
        if not pids or time.monotonic() >= deadline:
            return pids
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    found = stat(pid)
    return found is not None and found.state != "Z"


def stat(pid: int, proc: str = "/proc") -> Stat | None:
    """What the kernel says of a process, None where there is none."""
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name in parentheses may hold anything, so the fields are read from behind it.
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return Stat(fields[0], int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND)


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
    found = set()
    try:
        for entry in os.listdir(f"{proc}/{pid}/fd"):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"{proc}/{pid}/fd/{entry}"))
            if match:
                found.add(match[1])
    except OSError:
        pass  # gone, or not ours to see
    return found
