# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resets of GPUs: who keeps one from being reset, the reset itself, what it left, and how many there were.

A GPU that needs one reset after another has a fault that no reset cures, so each is written down.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._serving import files, process
from . import child, xid
from .facts import Gpu

DEVICE = "/dev/nvidia"
"""What the device files begin with."""
YIELDING = ("nvidia-persiste", "nv-fabricmanage")
"""Names, as long as the kernel keeps them, of those whom nvidia-smi itself asks to let go of a GPU: the persistence
daemon and the fabric manager, which some resets even need."""
HOLDERS_SECONDS = 10.0
LOGGER_SECONDS = 10.0

STATE_DIR = "/var/lib/vllm/gpu"
VERSION = 1
LARGEST_SECONDS = 1 << 40
DAY_SECONDS = 24 * 3600
QUARANTINE_RESETS = 3
"""Of one GPU within a day."""

IN_USE = re.compile(r"\bin use\b|\bbeing used\b", re.IGNORECASE)
REFUSED = re.compile(rf"{IN_USE.pattern}|not supported|permission|primary gpu", re.IGNORECASE)
"""What nvidia-smi says where it has not even tried."""


@dataclass(frozen=True)
class Holder:
    """A process that has a GPU open."""

    pid: int
    name: str
    uid: int
    unit: str
    """Of systemd, the one that it was started by; empty where none was."""
    devices: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}, {self.unit or 'of no unit'})"

    @property
    def yields(self) -> bool:
        """Whether it keeps nobody from resetting the GPU."""
        return self.name in YIELDING


def holders(root: str = "/") -> list[Holder]:
    """All of them, where root asks. The maps of a process that the driver has stuck may hang: see `see_holders`."""
    proc = os.path.join(root, "proc")
    return [holder for seen in process.processes(proc) for holder in _holder(proc, seen)]


def see_holders(root: str = "/") -> list[Holder]:
    """The same, through a child."""
    found = child.call(_holders, root, deadline_seconds=HOLDERS_SECONDS)
    return [Holder(**{**fields, "devices": tuple(fields["devices"])}) for fields in found]


def device(pci_address: str | None, root: str = "/") -> str:
    """The device file of a GPU, empty where the driver does not tell."""
    path = os.path.join(root, f"proc/driver/nvidia/gpus/{pci_address}.0/information")
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            found = re.search(r"^Device Minor:\s*(\d+)", stream.read(), re.MULTILINE)
    except OSError:
        return ""
    return f"{DEVICE}{found[1]}" if found else ""


def holding(found: Collection[Holder], devices: Collection[str]) -> list[Holder]:
    """Those that have one of these open; where the file of a GPU is not known, those that have any GPU open."""
    if "" in devices:
        devices = {path for holder in found for path in holder.devices if re.fullmatch(rf"{DEVICE}\d+", path)}
    return [holder for holder in found if not set(devices).isdisjoint(holder.devices)]


def _holders(root: str) -> list[dict[str, Any]]:
    return [asdict(holder) for holder in holders(root)]


def _holder(proc: str, seen: process.Process) -> Iterator[Holder]:
    folder = f"{proc}/{seen.pid}"
    devices = _opened(f"{folder}/fd") | _mapped(f"{folder}/maps")
    if not devices:
        return
    with contextlib.suppress(OSError):  # gone since
        yield Holder(seen.pid, seen.name, os.stat(folder).st_uid, _unit(f"{folder}/cgroup"), tuple(sorted(devices)))


def _opened(folder: str) -> set[str]:
    found = set()
    try:
        for entry in os.listdir(folder):
            try:
                path = os.readlink(f"{folder}/{entry}")
            except FileNotFoundError:
                continue  # closed since the listing
            if path.startswith(DEVICE):
                found.add(_plain(path))
    except OSError:
        pass  # gone, or not ours to see
    return found


def _mapped(path: str) -> set[str]:
    """A device that was closed stays in use for as long as it is mapped."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return {_plain(line[line.index(DEVICE) :].rstrip("\n")) for line in stream if f" {DEVICE}" in line}
    except OSError:
        return set()


def _plain(path: str) -> str:
    """Without the kernel's note that the file is no longer there, as where its container has gone."""
    suffix = " (deleted)"
    return path[: -len(suffix)] if path.endswith(suffix) else path


def _unit(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            groups = [line.rstrip("\n").split(":", 2) for line in stream]
    except OSError:
        return ""
    for _number, controllers, group in groups:
        if controllers in ("", "name=systemd"):
            # The outermost: below it a service manages its groups as it likes.
            return next((part for part in group.split("/") if part.endswith((".service", ".scope"))), "")
    return ""


@dataclass(frozen=True)
class Outcome:
    """Of a reset."""

    done: bool
    words: str
    """Of nvidia-smi, or why there are none."""
    code: int | None = None
    unresponsive: bool = False
    """It did not end in time."""

    @property
    def in_use(self) -> bool:
        return not self.done and bool(IN_USE.search(self.words))

    @property
    def refused(self) -> bool:
        """Whether nothing was reset, nor harmed."""
        return not self.done and bool(REFUSED.search(self.words))


def reset(uuids: Sequence[str], deadline_seconds: float = 180) -> Outcome:
    """Reset GPUs together, as those must be that share an older NVLink.

    :param uuids: UUIDs, or whatever else `nvidia-smi -i` takes for a GPU that does not tell its own.
    """
    command = ("nvidia-smi", "--gpu-reset", "-i", ",".join(uuids))
    try:
        code, words = child.call(child.output, *command, deadline_seconds=deadline_seconds)
    except child.Unresponsive as error:
        return Outcome(False, str(error), unresponsive=True)
    except child.ChildFailed as error:
        return Outcome(False, str(error))
    return Outcome(code == 0, " ".join(words.split()) or f"it {child.ending(code)}", code)


def trouble(before: Gpu, after: Gpu | None) -> str:
    """What a reset has not cured or has done itself, empty where all is well."""
    if after is None:
        return "it is no longer there"
    if after.lost:
        return "it is lost"
    if after.reset_required:
        return "it still requires a reset"
    if after.recovery_action not in (None, "none"):
        return f"the driver asks for {after.recovery_action}"
    if after.remap_pending or after.pages_pending:
        return "it still has memory to repair"
    if before.fabric_state == "completed" and after.fabric_state != "completed":
        return f"it has not joined the fabric again, which is {after.fabric_state}"
    return ""


def mark(uuid: str, kmsg: str = "/dev/kmsg") -> str:
    """Tell those who read the kernel log that earlier XIDs of this GPU no longer count; what went wrong."""
    line = f"{xid.MARKER} {uuid}"
    try:
        with open(kmsg, "w", encoding="ascii", opener=_open_if_there) as stream:
            stream.write(f"<5>{line}\n")
        return ""
    except OSError as error:
        refusal = f"{kmsg}: {error.strerror}"
    logger = ("logger", "--tag", "vllm-gpu-reset", "--priority", "daemon.notice", "--", line)
    try:
        code, _words = child.call(child.output, *logger, deadline_seconds=LOGGER_SECONDS)
    except (child.Unresponsive, child.ChildFailed) as error:
        return f"{refusal}, and logger: {error}"
    return f"{refusal}, and logger {child.ending(code)}" if code else ""


def _open_if_there(path: str, flags: int) -> int:
    """Open a device; where it is not there, no file must take its place."""
    return os.open(path, flags & ~os.O_CREAT)


@dataclass(frozen=True)
class Moment:
    """When a reset was made."""

    at: float
    """On the wall clock, which somebody may set back."""
    boot_id: str
    uptime_seconds: float
    """On the clock of that boot, which nobody sets."""

    def within_a_day(self, now: Moment) -> bool:
        """What a clock that was set back leaves in the future counts for no longer than a day either."""
        if self.boot_id == now.boot_id:
            return abs(now.uptime_seconds - self.uptime_seconds) < DAY_SECONDS
        return abs(now.at - self.at) < DAY_SECONDS


def now() -> Moment:
    return Moment(time.time(), process.boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))


class Ledger:
    """The resets of each GPU within a day, in a file that outlives boots."""

    def __init__(self, state_dir: str = STATE_DIR, clock: Callable[[], Moment] = now) -> None:
        self._path = os.path.join(state_dir, "resets.json")
        self._clock = clock
        self.warning = ""
        """Why earlier resets are forgotten, empty where they are not."""
        self._moments: dict[str, list[Moment]] = {}
        self._read()

    def count(self, uuid: str) -> int:
        """Resets within the last day."""
        moment = self._clock()
        return sum(made.within_a_day(moment) for made in self._moments.get(uuid, ()))

    def quarantined(self, uuid: str) -> bool:
        return self.count(uuid) >= QUARANTINE_RESETS

    def record(self, uuids: Collection[str]) -> None:
        """Write down that these were reset just now; OSError where that cannot be written."""
        moment = self._clock()
        self._read()  # others may have written since
        for uuid in uuids:
            self._moments.setdefault(uuid, []).append(moment)
        resets = {
            uuid: [asdict(made) for made in moments if made.within_a_day(moment)]
            for uuid, moments in self._moments.items()
        }
        files.replace(self._path, json.dumps({"version": VERSION, "resets": resets}, indent=2) + "\n", sync=True)

    def _read(self) -> None:
        self._moments, self.warning = {}, ""
        try:
            self._moments = _load(self._path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            self.warning = f"{self._path} is of no use, so earlier resets are forgotten: {error}"


def _load(path: str) -> dict[str, list[Moment]]:
    document = files.read_json(path)
    if not isinstance(document, dict) or document.keys() != {"version", "resets"}:
        raise ValueError("it is no list of resets")
    if document["version"] != VERSION:
        raise ValueError("another version of this program wrote it")
    if not isinstance(document["resets"], dict):
        raise ValueError("its resets cannot be right")
    return {uuid: _moments(moments) for uuid, moments in document["resets"].items()}


def _moments(values: Any) -> list[Moment]:
    if not isinstance(values, list):
        raise ValueError("its resets cannot be right")
    return [_moment(value) for value in values]


def _moment(value: Any) -> Moment:
    if (
        not isinstance(value, dict)
        or value.keys() != {"at", "boot_id", "uptime_seconds"}
        or not isinstance(value["boot_id"], str)
        or not all(_is_time(value[name]) for name in ("at", "uptime_seconds"))
    ):
        raise ValueError("one of its resets cannot be right")
    return Moment(**value)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LARGEST_SECONDS
