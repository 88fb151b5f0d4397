# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a node, read from /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

LISTEN = "0A"
TITLE = "VLLM::"
"""vLLM's engine and workers name themselves so; `ps | grep python` misses them."""
MARK = "INFEROPS_VLLM_INSTANCE"
"""Environment variable that the launcher sets and the engine inherits."""


@dataclass(frozen=True)
class Process:
    pid: int
    name: str
    uid: int


def processes() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as stream:
                name = stream.read().strip()
            yield Process(int(entry), name, os.stat(f"/proc/{entry}").st_uid)
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
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The name in parentheses may hold anything, so the state is read from behind it.
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listeners(port: int) -> list[Process]:
    """Processes that listen on a TCP port; needs root to see those of others."""
    inodes = set(_listening_inodes(port))
    return [found for found in processes() if inodes & _socket_inodes(found.pid)] if inodes else []


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port:
                yield row[9]


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            match = re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{entry}"))
            if match:
                found.add(match[1])
    except OSError:
        pass  # gone, or not ours to see
    return found
