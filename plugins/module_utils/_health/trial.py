# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether instances serve: each is asked for a completion, once or until it has given some in a row.

A trial may be cut into slices, so that whoever waits for its end sees how it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._serving import probe, watch
from .._serving.client import Answer
from .._serving.instance import Instance
from .._serving.verdict import HUNG, UNCOUNTED, UNKNOWN, Judge, Look, Thresholds

LOOK_SECONDS = 0.5
WAIT_SECONDS = 1.0
"""What a look waits for answers."""
MODELS_SECONDS = 10.0
CRASH_LOOP_RESTARTS = 3
SHOWN = ("state", "evidence", "serves", "successes", "restarts", "seconds")


@dataclass
class Seen:
    """What was last seen of an instance."""

    state: str = UNKNOWN
    evidence: str = "not looked at so far"
    serves: bool = False
    """Its last completion was one, of the model that is expected."""
    successes: int = 0
    """Completions in a row."""
    restarts: int = 0
    """How often its runtime has restarted the server since the trial began."""
    seconds: float = 0.0
    """Of the trial, when it had served as often as asked for, else so far."""
    first_restarts: int | None = None

    @property
    def crashes(self) -> bool:
        return self.restarts >= CRASH_LOOP_RESTARTS

    def note_restarts(self, count: int) -> None:
        if count == UNCOUNTED:
            return
        # Fewer than before: somebody has started it anew, and the runtime counts from 0.
        if self.first_restarts is None or count < self.first_restarts:
            self.first_restarts = count
        self.restarts = max(self.restarts, count - self.first_restarts)


@dataclass(frozen=True)
class Plan:
    """What is asked of a trial. Times of the monotonic clock, in seconds."""

    limits: Mapping[str, Thresholds]
    """By the instance's name."""
    successes: int
    began: float
    deadline: float
    slice_end: float
    """From here on it ends as soon as no completion is on its way."""
    once: bool = False
    """End with the first answer that tells."""


class Trial:
    """One instance, watched until it serves or time is over."""

    def __init__(self, instance: Instance, runtime: watch.Runtime, plan: Plan, seen: Seen) -> None:
        self.seen = seen
        self._instance = instance
        self._plan = plan
        self._answered = asyncio.Event()
        self._watcher = watch.Watcher(instance, runtime, self._answered.set)
        self._judge = Judge(plan.limits[instance.name])
        # A change of it ends the slice; before the first look there is none.
        self._first_state = "" if seen == Seen() else seen.state
        self._refusal = ""
        self._named = ""
        """The server that was seen to have the right model."""

    @property
    def served(self) -> bool:
        return self.seen.successes >= self._plan.successes

    async def run(self) -> None:
        asked = False
        try:
            while not self.served:
                self._answered.clear()
                look = await self._watcher.look(WAIT_SECONDS, asked)
                await self._take(look)
                if self._is_over(look, asked):
                    break
                before, asked = asked, look.health is not None and look.health.ok
                if before or not asked:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._answered.wait(), LOOK_SECONDS)
        finally:
            self._watcher.close()

    def _is_over(self, look: Look, asked: bool) -> bool:
        now = time.monotonic()
        if now >= self._plan.deadline or self.seen.crashes:
            return True
        if self._plan.once:
            # What has not answered yet may be slow, until the deadline.
            return look.probe is not None or (not look.asked_seconds and (look.health is None or not look.health.ok))
        self._first_state = self._first_state or self.seen.state
        told = self.seen.state != self._first_state and not (asked or look.probe_seconds)
        return (now >= self._plan.slice_end and not look.probe_seconds) or (told and self._is_sliced)

    @property
    def _is_sliced(self) -> bool:
        return self._plan.slice_end < self._plan.deadline

    async def _take(self, look: Look) -> None:
        verdict = self._judge.judge(look)
        seen = self.seen
        seen.note_restarts(verdict.restarts)
        seen.state, seen.evidence = verdict.state, verdict.evidence
        seen.seconds = round(time.monotonic() - self._plan.began, 1)
        if look.probe is not None:
            self._refusal = await self._fault_of(look.probe, verdict.server)
            seen.successes = 0 if self._refusal else seen.successes + 1
        elif not look.probe_seconds and not verdict.serves:
            seen.successes = 0
        seen.serves = bool(seen.successes) and verdict.state != HUNG
        if self._refusal:
            seen.evidence = f"{seen.evidence}; {self._refusal}"

    async def _fault_of(self, answer: Answer, server: str) -> str:
        """Why the answer to a one-token request is none of the expected model, empty where it is one."""
        if not answer.ok:
            return f"its last one-token request ended with {answer}"
        if self._named != server:
            models = await probe.served_models(self._instance, MODELS_SECONDS)
            if self._instance.served_model_name not in models:
                port, served = self._instance.port, ", ".join(models) or "no model"
                return f"another server answers on port {port}: it serves {served}"
            self._named = server
        return ""


async def run(
    instances: Sequence[Instance],
    runtime_of: Callable[[Instance], watch.Runtime],
    plan: Plan,
    progress: Mapping[str, Any],
) -> dict[str, Seen]:
    """Try the instances side by side.

    :param progress: What an earlier slice has seen, as `dump` wrote it.
    """
    trials = {
        instance.name: Trial(instance, runtime_of(instance), plan, Seen(**progress.get(instance.name, {})))
        for instance in instances
    }
    await asyncio.gather(*(trial.run() for trial in trials.values()))
    return {name: trial.seen for name, trial in trials.items()}


def dump(seen: Mapping[str, Seen]) -> dict[str, Any]:
    return {name: asdict(found) for name, found in seen.items()}


def shown(seen: Seen) -> dict[str, Any]:
    """What is told to users."""
    return {word: getattr(seen, word) for word in SHOWN}
