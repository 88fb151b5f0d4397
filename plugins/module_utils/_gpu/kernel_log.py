# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel of this boot has logged of GPUs. It waits for the journal: to be read in a child.

The journal keeps the whole boot; /dev/kmsg, which serves where the journal has nothing, forgets the oldest lines.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from typing import Any

from . import child
from .xid import MARKER

Line = tuple[float, str]
"""When it was logged, on the monotonic clock in seconds, and its text."""

WORDS = ("NVRM", "SXid", MARKER)
"""Lines without any of them are of others."""
MOST_LINES = 5000
MOST_BYTES = 64 << 20
CLOCK_STEP_SECONDS = 3600
"""The journal searches by the wall clock, which may have been set by so much since."""

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def read(since_seconds: float, kmsg: str = "/dev/kmsg") -> tuple[list[Line], str]:
    """The lines on GPUs since a time on the monotonic clock, or why there are none to be had, in one sentence."""
    try:
        lines = _from_journal(since_seconds)
        journal = "the journal holds nothing of the kernel"
    except OSError as error:
        lines, journal = [], str(error)
    if lines:
        return lines, ""
    try:
        return _relevant(parse_kmsg(drain(kmsg)), since_seconds), ""
    except OSError as error:
        if _journal_works():
            return [], ""
        return [], f"the kernel log cannot be read: {journal}, and {kmsg}: {error.strerror}"


# The journal


def _from_journal(since_seconds: float) -> list[Line]:
    options = [f"--lines={MOST_LINES}", f"--grep={'|'.join(WORDS)}"]
    if since_seconds > 0:
        since = time.time() - (time.monotonic() - since_seconds) - CLOCK_STEP_SECONDS
        options.append(f"--since=@{max(since, 0):.0f}")
    # Whoever resets a GPU may tell so through syslog; only root is believed.
    text = _journal(*options, "_TRANSPORT=kernel", "+", "_TRANSPORT=syslog", "_UID=0")
    return _relevant(parse_journal(text), since_seconds)


def _journal_works() -> bool:
    """Whether it holds lines of the kernel and can be searched: nothing found and a failure look the same."""
    try:
        return bool(_journal("--lines=1", "--grep=.", "_TRANSPORT=kernel").strip())
    except OSError:
        return False


def _journal(*options: str) -> str:
    fields = "--output-fields=MESSAGE,_TRANSPORT"
    _status, text = child.output("journalctl", "--boot", "--quiet", "--no-pager", "--output=json", fields, *options)
    return text


def parse_journal(text: str) -> list[Line]:
    """Lines of `journalctl --output=json`, the oldest first."""
    lines = [line for line in map(_of_entry, text.split("\n")) if line]
    if lines and lines[0][0] > lines[-1][0]:
        lines.reverse()  # --grep with --lines begins with the newest
    return lines


def _of_entry(text: str) -> Line | None:
    try:
        entry = json.loads(text)
        at, message = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6, _message(entry["MESSAGE"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if entry.get("_TRANSPORT", "kernel") != "kernel" and not message.startswith(MARKER):
        return None  # what a program logs may hold words of a stranger
    return at, message


def _message(value: Any) -> str:
    """A text that is not all printable comes as an array of its bytes."""
    return value if isinstance(value, str) else bytes([*value]).decode(errors="replace")


# /dev/kmsg


def drain(path: str) -> bytes:
    """What the kernel holds of its log, without waiting for more."""
    records = bytearray()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while len(records) < MOST_BYTES:
            try:
                record = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # the next record was overwritten; the one after it follows
            if not record:
                break
            records += record
    finally:
        os.close(descriptor)
    return bytes(records)


def parse_kmsg(records: bytes) -> list[Line]:
    """Lines of `priority,sequence,microseconds,flags;text` records; what is indented adds to the record before it."""
    return [line for line in map(_of_record, records.decode(errors="replace").split("\n")) if line]


def _of_record(record: str) -> Line | None:
    head, separator, text = record.partition(";")
    fields = head.split(",")
    if record.startswith(" ") or not separator or len(fields) < 4 or not re.fullmatch("[0-9]{1,20}", fields[2]):
        return None
    return int(fields[2]) / 1e6, _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


# Both


def _relevant(lines: Iterable[Line], since_seconds: float) -> list[Line]:
    found = [line for line in lines if line[0] >= since_seconds and any(word in line[1] for word in WORDS)]
    return found[-MOST_LINES:]
