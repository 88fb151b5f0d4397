# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of the node's instances, looked at again and again beside the instances themselves.

Where no instance was given any, none is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._driver import look as driver_look
from .._driver.faults import faults
from .._gpu import child, kernel_log, look, xid
from .._gpu import verdict as verdicts
from .._gpu.child import Child, ChildFailed, Unresponsive
from .._gpu.facts import GPU_IS_LOST, RESET_REQUIRED, Node
from .._gpu.verdict import Expectation, Limits, NodeVerdict, Verdict
from .._gpu.xid import Event

LOOK_SECONDS = 10.0
"""What the driver has for its answer, and the kernel's log for its own."""
POLL_SECONDS = 0.02
INSTALLATION_SECONDS = 300.0
"""Between looks at how the driver is installed, which reads more files than the others, and changes seldom."""
MOST_EVENTS = 1000
OVERLAP_SECONDS = 5.0
"""Of the kernel's log is read again: it is written by others at the same time."""
BROKEN = (GPU_IS_LOST, RESET_REQUIRED)
"""Codes by which the driver says that none of its GPUs is of use."""
OUT = (verdicts.DRAIN, verdicts.UNHEALTHY)
"""States in which an instance gets no new requests."""

Log = Callable[..., None]
Given = Callable[[], Mapping[str, Sequence[int]]]


class Gpus:
    """What is known of them.

    :param given: The instances that were given GPUs, and which.
    """

    def __init__(self, given: Given, log: Log) -> None:
        self.verdict = NodeVerdict()
        self.error = ""
        """Why the last look tells nothing; the verdict is then an earlier one."""
        self.faults: dict[str, str] = {}
        """What is wrong with the driver as it is installed, by kind: at the next start, or the next boot."""
        self._installation_due = 0.0
        self._given = given
        self._log = log
        self._events: dict[Event, None] = {}
        self._read_until = 0.0
        self._silent = False
        """Whether the driver did not answer the last time."""
        self._throttled: dict[str, float] = {}
        """Since when, by UUID."""

    def of(self, instance: str) -> Verdict:
        """The verdict on its GPUs; sound where it has none, or nothing is known so far."""
        return self.verdict.instances.get(instance, Verdict())

    def hold(self, instance: str) -> str:
        """Why a restart would do harm or no good; empty where it would not."""
        if not self.of(instance).reasons:
            return ""
        held = self.of(instance).state == verdicts.UNHEALTHY or not self.verdict.restart_safe
        return f"its GPUs: {self.of(instance).reasons[0]}" if held else ""

    async def run(self, pause_seconds: float) -> None:
        """Look at them until cancelled."""
        while True:
            if self._given():
                await self.look()
            await asyncio.sleep(pause_seconds)

    async def look(self) -> None:
        await self._read_installation()
        await self._read_log()
        node = await self._ask()
        silent, self._silent = self._silent, node.unresponsive
        self._note_failure(node)
        # A look that failed says nothing of the GPUs, and a driver may be late once.
        if (node.unresponsive and not silent) or says_nothing(node):
            return
        before, given = self.verdict, self._given()
        self.verdict = verdicts.judge(
            node,
            list(self._events),
            {},
            Expectation(),
            Limits(),
            given,
            self._throttled_seconds(node),
            list(self.faults.values()),
        )
        self._tell(before)

    async def _ask(self) -> Node:
        try:
            return Node.from_json(await ask(look.read))
        except (Unresponsive, ChildFailed) as error:
            return look.unanswered(error)

    async def _read_installation(self) -> None:
        if time.monotonic() < self._installation_due:
            return
        self._installation_due = time.monotonic() + INSTALLATION_SECONDS
        try:
            found = await ask(installation)
        except (Unresponsive, ChildFailed):
            return
        for kind in sorted({kind for kind in {**self.faults, **found} if self.faults.get(kind) != found.get(kind)}):
            self._log(event="driver", fault=kind, reason=found.get(kind, "mended"))
        self.faults = found

    async def _read_log(self) -> None:
        began = time.monotonic()
        try:
            lines, _trouble = await ask(kernel_log.read, self._read_until)
        except (Unresponsive, ChildFailed):
            return
        self._read_until = max(0.0, began - OVERLAP_SECONDS)
        self._events.update(dict.fromkeys(xid.parse_all(lines)))
        for event in list(self._events)[:-MOST_EVENTS]:
            del self._events[event]

    def _note_failure(self, node: Node) -> None:
        before, self.error = self.error, node.error if says_nothing(node) else ""
        if self.error and self.error != before:
            self._log(event="gpus", error=self.error)

    def _throttled_seconds(self, node: Node) -> dict[str, float]:
        slow = {gpu.uuid for gpu in node.gpus if gpu.uuid and verdicts.is_throttled(gpu)}
        self._throttled = {uuid: self._throttled.get(uuid, node.at) for uuid in slow}
        return {uuid: node.at - since for uuid, since in self._throttled.items()}

    def _tell(self, before: NodeVerdict) -> None:
        earlier = {gpu.index: gpu.state for gpu in before.gpus}
        for gpu in self.verdict.gpus:
            was = earlier.get(gpu.index, verdicts.OK)
            if gpu.state != was:
                self._log(
                    event="gpu",
                    gpu=gpu.index,
                    uuid=gpu.uuid,
                    state=gpu.state,
                    before=was,
                    action=gpu.action,
                    reason=next(iter(gpu.reasons), ""),
                )


def installation() -> dict[str, str]:
    """What a child answers: what is wrong with the driver as it is installed, by kind."""
    return faults(driver_look.files())


def says_nothing(node: Node) -> bool:
    """Whether the look has failed, and not a GPU: NVML's unknown error, say, is that of who has no devices."""
    return not (node.source or node.unresponsive or node.driver.mismatch or node.code in BROKEN)


async def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a child, as child.call has it, while other work goes on."""
    deadline = time.monotonic() + LOOK_SECONDS
    stuck = child.stuck()
    if stuck:
        raise Unresponsive(f"an earlier look at the GPUs has not ended, and hangs in process {stuck[0]}")
    asked = Child(function, *arguments)
    try:
        while not asked.poll():
            if time.monotonic() >= deadline:
                raise Unresponsive(f"no answer from the GPUs in {LOOK_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)
        return asked.result()
    finally:
        asked.abandon()
