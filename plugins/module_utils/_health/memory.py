# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the policy remembers of an instance, and the file that keeps it for the next program that looks.

Its times are of the monotonic clock, which begins anew at each boot, so nothing of it outlives the boot. Whatever
the file may hold, it loads: as what was saved, or as a fresh memory and a sentence that says why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from .._serving import files

STATE_DIR = "/var/lib/vllm/health"
VERSION = 1
LARGEST_COUNT = 1 << 32


@dataclass(frozen=True)
class Memory:
    """Times are in seconds of the monotonic clock; None and "" mean never."""

    server: str = ""
    """Identity of the last server that was seen."""
    refused: bool = False
    """That server runs no more, and its launcher has kept the next from its start."""
    runtime_restarts: int = 0
    """The runtime's own count of restarts, at the last look."""
    started_by_hand: bool = False
    """The runtime has begun to count anew: somebody starts the next server."""
    restarts: tuple[float, ...] = ()
    """When the restarts that count against the budget were made, oldest first."""
    acted: str = ""
    """The last action, until its effect is seen."""
    acted_on: str = ""
    """Identity of the server that it was meant for; empty where none ran."""
    acted_at: float | None = None
    serving_since: float | None = None
    """Since when the server has served without a break."""
    steady_at: float | None = None
    """When a server last became a mended one: it had served for long enough without a break."""
    recovering: bool = False
    """Nothing has served since the last restart."""
    quarantine: str = ""
    """Why the instance is left stopped; empty where it is not."""


def path_of(name: str, state_dir: str = STATE_DIR) -> str:
    return os.path.join(state_dir, f"{name}.json")


def load(path: str, boot: str, now: float) -> tuple[Memory, str]:
    """The memory in a file and "", or a fresh one and why; never raises. No file is no reason for a word."""
    try:
        return _parse(files.read_json(path), boot, now), ""
    except FileNotFoundError:
        return Memory(), ""
    except (OSError, ValueError, RecursionError) as error:
        return Memory(), f"{path} is of no use, so earlier restarts are forgotten: {error}"


def save(path: str, boot: str, memory: Memory) -> None:
    """Write a memory whole or not at all; OSError where it cannot be written, and the file is then as it was."""
    content = json.dumps({"version": VERSION, "boot": boot, "memory": asdict(memory)})
    # Not synced to the disk: after a power failure it would be of another boot.
    files.replace(path, content + "\n", 0o600)


def _parse(document: Any, boot: str, now: float) -> Memory:
    if not isinstance(document, dict) or document.keys() != {"version", "boot", "memory"}:
        raise ValueError("it is no saved memory")
    if document["version"] != VERSION:
        raise ValueError("another version of this program wrote it")
    if document["boot"] != boot:
        raise ValueError("it is of another boot")
    return from_json(document["memory"], now)


def from_json(values: Any, now: float) -> Memory:
    """The memory that decoded JSON holds; ValueError where it holds none that can have been."""
    checks: dict[str, Callable[[Any], bool]] = {
        "bool": lambda value: isinstance(value, bool),
        "int": lambda value: _is_whole(value) and 0 <= value <= LARGEST_COUNT,
        "str": lambda value: isinstance(value, str),
        "float | None": lambda value: value is None or _is_time(value, now),
        "tuple[float, ...]": lambda value: _are_times(value, now),
    }
    known = {field.name: checks[str(field.type)] for field in fields(Memory)}
    if not isinstance(values, dict) or values.keys() != known.keys():
        raise ValueError("its memory has not the expected members")
    wrong = [name for name, check in known.items() if not check(values[name])]
    if wrong:
        raise ValueError(f"its {wrong[0]} cannot be right")
    return Memory(**{**values, "restarts": tuple(values["restarts"])})


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any, now: float) -> bool:
    """Whether it is a time that has been; no comparison holds for a NaN."""
    return (_is_whole(value) or isinstance(value, float)) and 0 <= value <= now


def _are_times(values: Any, now: float) -> bool:
    if not isinstance(values, (list, tuple)):
        return False
    return all(_is_time(value, now) for value in values) and list(values) == sorted(values)
