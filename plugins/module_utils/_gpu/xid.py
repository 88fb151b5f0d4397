# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of GPUs in lines of the kernel log: XIDs, SXIDs of NVSwitches, resets and loads of the driver.

Only what a line begins with counts: further on it may hold words of others, such as names of processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import pci
from .facts import RECOVERY_ACTIONS
from .xid_table import FELL_OFF_THE_BUS, RECOVERY_ACTION_CHANGED

XID = "xid"
SXID = "sxid"
"""Of an NVSwitch."""
RESET = "reset"
"""Of one GPU, told by who did it: the driver says nothing of it."""
LOAD = "load"
"""Of the driver, which begins anew with all GPUs."""
KINDS = (XID, SXID, RESET, LOAD)

MARKER = "GPU reset occurred:"
"""Whoever resets a GPU logs this with its UUID, so that XIDs before it no longer count."""
SAME_MESSAGE_SECONDS = 1.0
"""Lines of one message are no further apart."""

_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL
_ADDRESS = f"(?P<address>{pci.ADDRESS.pattern})"
_XID = re.compile(
    rf"NVRM: Xid \({_ADDRESS}(?: GPU-I:(?P<gpu_instance>\d{{1,4}}))?[^)]*\): (?P<code>\d{{1,6}})\b,?\s*(?P<text>.*)",
    _FLAGS,
)
_PROCESS = re.compile(r"pid=(?:'<unknown>'|(?P<pid>\d{1,10}))(?:, name=(?P<name>[^,]*))?(?:,\s*|$)", _FLAGS)
_NVLINK = re.compile(r"(?P<unit>[A-Z]\w*)\s+(?P<severity>Fatal|Non-?fatal)\b(?P<rest>.*)", _FLAGS)
_NVLINK_WORDS = re.compile(r"\(0x(?P<first>[0-9a-f]{8})[ )]", _FLAGS)
_FALLEN = re.compile(rf"NVRM: (?:The NVIDIA )?GPU (?:at )?{_ADDRESS}\b.*fallen off the bus", _FLAGS)
_FALLEN_END = re.compile(r"NVRM: (?:system has )?fallen off the bus", _FLAGS)
_FALLEN_BEGIN = re.compile(rf"NVRM: The NVIDIA GPU {_ADDRESS}\s*$", _FLAGS)
_SXID = re.compile(
    rf"nvidia-nvswitch\d*: SXid \({_ADDRESS}\): (?P<code>\d{{1,6}}), (?P<severity>Fatal|Non-?fatal)\b,?\s*(?P<text>.*)",
    _FLAGS,
)
_RESET = re.compile(rf"{MARKER} (?P<uuid>GPU-[0-9a-f-]{{1,64}})\s*", _FLAGS)
_LOAD = re.compile(r"NVRM: loading NVIDIA UNIX", _FLAGS)
_RECOVERY = re.compile(r".*\bto (?:0x(?P<number>[0-9a-f]{1,8}) )?\(?(?P<words>[^)]*)", _FLAGS)

_RECOVERY_WORDS = (
    ("imex", "recover_imex"),
    ("drain and reset", "drain_and_reset"),
    ("drain p2p", "drain_p2p"),
    ("bus reset", "bus_reset"),
    ("system reboot", "system_reboot"),
    ("reboot", "node_reboot"),
    ("reset", "gpu_reset"),
    ("flr", "gpu_reset"),
    ("none", "none"),
)
"""The words changed from driver to driver. The first that are found count."""
_STABLE_RECOVERY_ACTIONS = RECOVERY_ACTIONS[:5]
"""Numbers that have meant the same in every driver."""


@dataclass(frozen=True)
class Event:
    kind: str
    at: float = 0.0
    """On the monotonic clock, in seconds."""
    code: int | None = None
    """Of an XID or SXID; a GPU that fell off the bus counts as 79 where the line has no number."""
    pci_address: str = ""
    """As pci.normalize writes it; of a switch where it is an SXID, empty where the line names none."""
    uuid: str = ""
    """Of the GPU that was reset."""
    pid: int | None = None
    process: str = ""
    gpu_instance: int | None = None
    """Of MIG."""
    fatal: bool | None = None
    """What an NVLink 5 message or an SXID says of itself."""
    unit: str = ""
    """Of NVLink 5, such as NETIR_LINK_EVT."""
    link_reason: int | None = None
    """Why an NVLink 5 link went down, as drivers since R575 write it."""
    recovery_action: str | None = None
    """One of facts.RECOVERY_ACTIONS, of XID 154."""
    text: str = ""


def parse(line: str, at: float = 0.0) -> Event | None:
    """What one line says of GPUs; None where that is nothing."""
    for pattern, build in _BUILDERS:
        found = pattern.match(line)
        if found:
            return replace(build(found), at=at)
    return None


def parse_all(lines: Iterable[tuple[float, str]]) -> list[Event]:
    """The events of lines in their order, with messages put together that the log has split."""
    events: list[Event] = []
    begun_at, address = 0.0, ""
    for at, line in lines:
        begun = _FALLEN_BEGIN.match(line)
        if begun:
            begun_at, address = at, pci.normalize(begun["address"])
        event = parse(line, at)
        if event is None:
            continue
        if event.kind == XID and not event.pci_address and at - begun_at <= SAME_MESSAGE_SECONDS:
            event = replace(event, pci_address=address)
        events.append(event)
    return events


def _xid(found: re.Match[str]) -> Event:
    code, text = int(found["code"]), found["text"].strip()
    process = _PROCESS.match(text)
    if process:
        text = text[process.end() :]
    nvlink = _NVLINK.match(text) if 144 <= code <= 150 else None
    words = _NVLINK_WORDS.search(nvlink["rest"]) if nvlink else None
    return Event(
        XID,
        code=code,
        pci_address=pci.normalize(found["address"]),
        pid=int(process["pid"]) if process and process["pid"] else None,
        process=(process["name"] or "").strip() if process else "",
        gpu_instance=int(found["gpu_instance"]) if found["gpu_instance"] else None,
        fatal=_is_fatal(nvlink) if nvlink else None,
        unit=nvlink["unit"] if nvlink else "",
        link_reason=int(words["first"], 16) >> 20 & 0x3F if words else None,
        recovery_action=_recovery_action(text) if code == RECOVERY_ACTION_CHANGED else None,
        text=text,
    )


def _sxid(found: re.Match[str]) -> Event:
    return Event(
        SXID,
        code=int(found["code"]),
        pci_address=pci.normalize(found["address"]),
        fatal=_is_fatal(found),
        text=found["text"].strip(),
    )


def _fallen(found: re.Match[str]) -> Event:
    address = found.groupdict().get("address") or ""
    return Event(XID, code=FELL_OFF_THE_BUS, pci_address=pci.normalize(address), text="GPU has fallen off the bus")


def _reset(found: re.Match[str]) -> Event:
    return Event(RESET, uuid=found["uuid"])


def _load(_found: re.Match[str]) -> Event:
    return Event(LOAD)


_BUILDERS = (
    (_XID, _xid),
    (_SXID, _sxid),
    (_FALLEN, _fallen),
    (_FALLEN_END, _fallen),
    (_RESET, _reset),
    (_LOAD, _load),
)


def _is_fatal(found: re.Match[str]) -> bool:
    return found["severity"].lower() == "fatal"


def _recovery_action(text: str) -> str | None:
    """What the driver asks for: its words, else its number."""
    changed = _RECOVERY.match(text)
    words = (changed["words"] if changed else text).lower()
    for word, action in _RECOVERY_WORDS:
        if word in words:
            return action
    number = int(changed["number"], 16) if changed and changed["number"] else len(_STABLE_RECOVERY_ACTIONS)
    return _STABLE_RECOVERY_ACTIONS[number] if number < len(_STABLE_RECOVERY_ACTIONS) else None
