# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one instance serving: looks, judges, decides and acts, over and over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from .._gpu.verdict import Verdict as GpuVerdict
from .._serving import instance as instances
from .._serving import process, runtime, watch
from .._serving import verdict as verdicts
from .._serving.instance import Instance
from .._serving.runtime import CommandFailed
from .._serving.verdict import Judge, Verdict
from . import drain, memory, policy
from .gpus import OUT, Gpus
from .settings import Settings

EAGER_SECONDS = 0.25
"""Between looks at a server that is not up yet, for each of them is a connection refused."""
WAIT_SECONDS = 1.0
"""What a look waits for answers."""
PROBE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Log = Callable[..., None]


class Runtime(watch.Runtime, Protocol):
    """What a keeper asks of the runtime; see runtime.py."""

    async def restart(self, name: str) -> None: ...

    async def kill(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...


@dataclass(frozen=True)
class Node:
    """Where keepers work."""

    runtime_of: Callable[[Instance], Runtime] = runtime.of
    config_dir: str = instances.CONFIG_DIR
    state_dir: str = memory.STATE_DIR
    drain_dir: str = drain.DIRECTORY


class Keeper:
    """Keeps one instance.

    :param may_act: Tells whether this program is the one that heals; where not, it looks and judges alone.
    """

    def __init__(
        self,
        instance: Instance,
        settings: Settings,
        node: Node,
        log: Log,
        tell: Callable[[Mapping[str, Any]], None],
        may_act: Callable[[], bool],
        gpus: Gpus,
    ) -> None:
        self.instance = instance
        self.verdict = Verdict(verdicts.UNKNOWN, "not looked at so far")
        self.since = self.looked_at = time.monotonic()
        self.looks = 0
        self.late_looks = 0
        self.actions: Counter[str] = Counter()
        self.restarts = 0
        self.look_seconds: Counter[float] = Counter()
        self.look_seconds_sum = 0.0
        self._settings = settings
        self._runtime = node.runtime_of(instance)
        self._log = log
        self._tell = tell
        self._may_act = may_act
        self._gpus = gpus
        self._drain_dir = node.drain_dir
        self._woken = asyncio.Event()
        self._watcher = watch.Watcher(instance, self._runtime, self._woken.set)
        self._judge = Judge(settings.thresholds(instance.start_grace_seconds))
        self._state_path = memory.path_of(instance.name, node.state_dir)
        self._boot_id = process.boot_id()
        self._memory, warning = memory.load(self._state_path, self._boot_id, time.monotonic())
        self._unsaved = False
        self._save_error: str | None = ""
        if warning:
            log(instance=instance.name, event="memory", error=warning)

    # What is told of it

    @property
    def draining(self) -> bool:
        return drain.is_drained(self.instance.name, self._drain_dir)

    @property
    def quarantine(self) -> str:
        """Why it is left stopped; empty where it is not."""
        return self._memory.quarantine

    @property
    def gpu(self) -> GpuVerdict:
        """On the GPUs that it was given."""
        return self._gpus.of(self.instance.name)

    @property
    def driver_faults(self) -> dict[str, str]:
        """What is wrong with the driver as it is installed, by kind; of no matter to an instance without GPUs."""
        return self._gpus.faults if self.instance.gpus else {}

    @property
    def ready(self) -> bool:
        return self.verdict.serves and not self.draining and self.gpu.state not in OUT

    def status(self) -> dict[str, Any]:
        """Everything, for /status."""
        draining, gpu = self.draining, self.gpu
        state, evidence = self.verdict.state, self.verdict.evidence
        if self.verdict.serves and gpu.state in OUT:
            state, evidence = verdicts.DRAINING, f"its GPUs are {gpu.state}: {gpu.reasons[0]}"
        if draining and self.verdict.serves:
            state = verdicts.DRAINING
        if self.quarantine:
            state, evidence = verdicts.FAILED, f"quarantined: {self.quarantine}"
        # It serves on, for what is on the disk counts at the next start; who looks shall know of it before.
        evidence = "; ".join([evidence, *self.driver_faults.values()])
        return {
            "instance": self.instance.name,
            "state": state,
            "evidence": evidence,
            "serves": self.verdict.serves,
            "ready": self.ready,
            "draining": draining,
            "gpu": {"state": gpu.state, "action": gpu.action, "reasons": list(gpu.reasons), "error": self._gpus.error},
            "driver": self.driver_faults,
            "quarantine": self.quarantine,
            "server": self.verdict.server,
            "state_seconds": round(time.monotonic() - self.since, 1),
            "look_age_seconds": round(time.monotonic() - self.looked_at, 1),
            "restarts": self.restarts,
            "actions": dict(self.actions),
        }

    # What it does

    async def run(self) -> None:
        """Keep the instance until cancelled."""
        due = time.monotonic()
        while True:
            self.late_looks += time.monotonic() > due + self._settings.look_seconds
            asked = self._judge.wants_probe
            await self.step()
            due = max(due + self._pause_seconds(asked), time.monotonic())
            if await self._wakes_before(due):
                due = time.monotonic()

    def _pause_seconds(self, asked: bool) -> float:
        if self._judge.settled:
            return self._settings.look_seconds
        # Its first token is all that a server lacks that has just loaded.
        return 0.0 if self._judge.wants_probe and not asked else EAGER_SECONDS

    async def _wakes_before(self, due: float) -> bool:
        try:
            await asyncio.wait_for(self._woken.wait(), due - time.monotonic())
        except asyncio.TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._watcher.close()

    async def step(self) -> None:
        """One look, and what follows from it."""
        self._woken.clear()
        began = time.monotonic()
        look = await self._watcher.look(WAIT_SECONDS, self._judge.wants_probe)
        self._note_look(began)
        await self.take(self._judge.judge(look), look.at)

    async def take(self, verdict: Verdict, now: float) -> None:
        """What follows from a verdict."""
        self._note_verdict(verdict)
        if self._may_act():
            await self._follow_policy(now)

    def _note_look(self, began: float) -> None:
        self.looked_at = time.monotonic()
        seconds = self.looked_at - began
        self.looks += 1
        self.look_seconds_sum += seconds
        self.look_seconds[next((bound for bound in PROBE_BUCKETS if seconds <= bound), float("inf"))] += 1

    def _note_verdict(self, verdict: Verdict) -> None:
        before, self.verdict = self.verdict, verdict
        if verdict.state == before.state:
            return
        self.since = time.monotonic()
        if {verdict.state, before.state} != {verdicts.READY, verdicts.BUSY}:
            self._log(
                instance=self.instance.name,
                event="verdict",
                state=verdict.state,
                before=before.state,
                evidence=verdict.evidence,
                server=verdict.server,
            )

    async def _follow_policy(self, now: float) -> None:
        hold = self._gpus.hold(self.instance.name)
        decision = policy.decide(self._memory, self.verdict, now, self._settings, hold)
        self._unsaved |= decision.memory != self._memory
        self._memory = decision.memory
        if decision.action:
            # Kept before it is done: a program that dies at it must not do it once more than it may.
            self._save()
            await self._act(decision.action, decision.reason)
        for event in decision.events:
            self.restarts += event.kind == "restart"
            told = {"instance": self.instance.name, "event": event.kind, "reason": event.reason}
            self._log(**told)
            self._tell(told)
        self._save()

    async def _act(self, action: str, reason: str) -> None:
        name = self.instance.name
        self.actions[action] += 1
        self._log(instance=name, event="action", action=action, reason=reason)
        try:
            if action == policy.KILL or (action == policy.QUARANTINE and self.verdict.lost):
                # It does not leave by SIGTERM while a client stays connected.
                await self._runtime.kill(name)
            if action == policy.RESTART:
                await self._runtime.restart(name)
            if action == policy.QUARANTINE:
                await self._runtime.stop(name)
        except CommandFailed as error:
            self._log(instance=name, event="action", action=action, error=str(error))

    def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            memory.save(self._state_path, self._boot_id, self._memory)
            self._unsaved = False
        except OSError as error:
            # What is remembered holds as long as this program does; told once, not at every look.
            if self._save_error != error.strerror:
                self._log(instance=self.instance.name, event="memory", error=f"not saved: {error.strerror}")
            self._save_error = error.strerror
