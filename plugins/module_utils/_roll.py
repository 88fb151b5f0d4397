# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node knows of the roll that it is part of: a note that outlives the controller.

The note is the roll's lock, and what an interrupted roll is resumed by. Whoever holds it is a process of a controller;
one of another controller counts as alive until it was not heard of for the lease.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ._serving import files, generations, process
from ._serving import instance as serving
from ._serving.instance import CONFIG_DIR, Instance
from ._serving.process import TICKS_PER_SECOND

PATH = "/var/lib/vllm/roll.json"
APPLY = "apply"
RESTART = "restart"
ROLLBACK = "rollback"
VERBS = (APPLY, RESTART, ROLLBACK)


@dataclass(frozen=True)
class Holder:
    """A process of a controller."""

    user: str
    host: str
    boot: str
    pid: int
    start: int
    """Ticks of the controller's clock at which the process began: a pid is given out again."""

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid})"


@dataclass(frozen=True)
class Note:
    """What is written down on a node."""

    verb: str
    holder: Holder
    boot: str
    """The node's own, for which the next one counts."""
    began: float
    """Seconds from the node's boot to the begin of the roll."""
    seen: float
    """Seconds since the epoch at which the roll was last heard of here."""
    todo: list[str]
    """Instances that are not done."""
    released: bool = False
    """Nobody holds it, and it is not finished."""

    def age_seconds(self) -> float:
        return max(0.0, time.time() - self.seen)

    def is_older_than(self, server: process.Stat) -> bool:
        """Whether a server was started after the roll began."""
        return self.boot != process.boot_id() or server.start_ticks / TICKS_PER_SECOND > self.began


class Held(Exception):
    """Another roll is under way; the message says whose."""

    def __init__(self, note: Note) -> None:
        super().__init__(
            f"a roll of {note.holder} is under way, last heard of {note.age_seconds():.0f} s ago: wait for its end,"
            " or take over with roll_take_over=true where it is gone"
        )
        self.holder = note.holder


def read(path: str = PATH) -> Note | None:
    """The node's note; None where there is none that can be read."""
    try:
        found = files.read_json(path)
        return Note(**{**found, "holder": Holder(**found["holder"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write(note: Note, path: str = PATH) -> None:
    files.replace(path, json.dumps(asdict(note)), sync=True)


def remove(path: str = PATH) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@dataclass(frozen=True)
class Wanted:
    """What a roll is begun with."""

    verb: str
    holder: Holder
    names: list[str]
    stale: list[str]
    """Of these it is known already that they run with another configuration than they shall."""
    lease_seconds: float
    resume_seconds: float
    """A note that is older belongs to a roll that nobody resumes."""
    take_over: bool


class Node:
    """A node at the begin of a roll."""

    def __init__(self, wanted: Wanted, config_dir: str = CONFIG_DIR, path: str = PATH) -> None:
        self._wanted = wanted
        self._config_dir = config_dir
        self._path = path
        self.found = read(path)
        if self.found and self._is_held(self.found):
            raise Held(self.found)
        self.resumes = bool(self.found) and self._is_resumed(self.found)
        self._left = self.found.todo if self.found else []
        self.missing: list[str] = []
        """Those that have nothing to go back to."""

    def _is_held(self, note: Note) -> bool:
        if note.released or note.holder == self._wanted.holder or self._wanted.take_over:
            return False
        return note.age_seconds() < self._wanted.lease_seconds

    def _is_resumed(self, note: Note | None) -> bool:
        return note is not None and note.verb == self._wanted.verb and note.age_seconds() < self._wanted.resume_seconds

    def back(self) -> dict[str, str]:
        """The generation that each instance is to go back to, by its name."""
        found = {}
        for name in self._wanted.names:
            if self.resumes:
                # Those that are done went back already: once more would be forward.
                continue
            try:
                found[name] = generations.earlier(name, self._config_dir)
            except generations.NoneKept:
                self.missing.append(name)
        return found

    def todo(self, back: Iterable[str] = ()) -> list[str]:
        """Instances that the roll has to go through."""
        return [name for name in self._wanted.names if name in self._left or name in back or self._is_due(name)]

    def _is_due(self, name: str) -> bool:
        if self._wanted.verb == RESTART:
            return not self.resumes
        return self._wanted.verb == APPLY and self._differs(name)

    def restart(self, todo: Iterable[str], back: Iterable[str] = ()) -> list[str]:
        """Those of them that have not been restarted."""
        return [name for name in todo if name in back or self._differs(name) or not self._is_fresh(name)]

    def _differs(self, name: str) -> bool:
        """Whether its server was started with another configuration than it shall have; one that stands still was."""
        if name in self._wanted.stale or self._is_staged(name):
            return True
        described = self._described(name)
        config, _description = generations.texts(name, self._config_dir)
        pid = generations.main_pid(described)
        return bool(pid) and generations.is_stale(described, config, pid)

    def _is_staged(self, name: str) -> bool:
        # What is put aside may have failed elsewhere: only those use it who ask for it.
        return self._wanted.verb != RESTART and generations.has(generations.STAGED, name, self._config_dir)

    def _is_fresh(self, name: str) -> bool:
        server = process.living(generations.main_pid(self._described(name)))
        if server is None or self.found is None or (self._wanted.verb == RESTART and not self.resumes):
            return False
        # What is to be applied, and is, needs no restart; what is to be restarted has to be younger than the roll.
        return self.found.verb != RESTART or self.found.is_older_than(server)

    def _described(self, name: str) -> Instance:
        return serving.load(name, self._config_dir)

    def note(self, todo: list[str]) -> Note:
        """What is to be written down."""
        resumed = self.found if self.resumes else None
        return Note(
            verb=self._wanted.verb,
            holder=self._wanted.holder,
            boot=resumed.boot if resumed else process.boot_id(),
            began=resumed.began if resumed else time.clock_gettime(time.CLOCK_BOOTTIME),
            seen=time.time(),
            todo=todo,
        )

    def begin(self, todo: list[str], back: dict[str, str]) -> None:
        # The note comes last: interrupted before, nothing was begun, and a second begin does the same.
        for name, kind in back.items():
            generations.stage(name, kind, self._config_dir)
        write(self.note(todo), self._path)


def done(names: Iterable[str], approve: bool, config_dir: str = CONFIG_DIR, path: str = PATH) -> None:
    """Take instances off the note; those that serve well keep their configuration as a good one."""
    finished = list(names)
    if approve:
        for name in finished:
            generations.approve(name, config_dir)
    note = read(path)
    if note:
        write(_changed(note, todo=[name for name in note.todo if name not in finished], seen=time.time()), path)


def end(path: str = PATH) -> None:
    """The roll is over for this node: what is not done may be taken up by anybody."""
    note = read(path)
    if note and note.todo:
        write(_changed(note, released=True), path)
    else:
        remove(path)


def restore(names: Iterable[str], config_dir: str = CONFIG_DIR) -> list[str]:
    """Stage the last good configuration of instances that have another one; the names of those."""
    restored = []
    for name in names:
        good = generations.directory(generations.GOOD, config_dir)
        if not generations.has(generations.GOOD, name, config_dir):
            continue
        if generations.texts(name, good) == generations.texts(name, config_dir):
            generations.unstage(name, config_dir)
            continue
        generations.stage(name, generations.GOOD, config_dir)
        restored.append(name)
    return restored


def _changed(note: Note, **values: Any) -> Note:
    return Note(**{**note.__dict__, **values})
