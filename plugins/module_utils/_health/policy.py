# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about a verdict: a pure function of the verdict, the memory of what was done, and the time.

A server that is hung, or dead with requests in it, is killed; one that failed otherwise is restarted; all others are
left alone. Each restart counts against a budget, one that the runtime makes by itself like one of ours, and counts on
until it is older than the window and a server has served steadily since. With n restarts remembered the next one
waits for backoff_seconds * 2**(n-1), but backoff_max_seconds at most, since the last. An instance that wants another
restart when the budget is spent, or that ends once more often than the budget allows before it has served steadily,
is stopped and stays so until somebody starts it.

The runtime's count tells who started a server: it grows where the runtime did by itself, and begins anew at 0 where
somebody did. Starts that the launcher refused grow it too; they brought up no server, so they are no restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .._serving.verdict import DRAINING, FAILED, HUNG, UNCOUNTED, UNKNOWN, Verdict
from .memory import Memory
from .settings import Settings

NONE = ""
RESTART = "restart"
"""By the runtime: a graceful stop, then a start."""
KILL = "kill"
"""SIGKILL to everything of the instance; its runtime then starts it."""
QUARANTINE = "quarantine"
"""Stop it and leave it stopped. Also the kind of the event."""
ACTIONS = (NONE, RESTART, KILL, QUARANTINE)

RECOVERED = "recovered"
RELEASED = "released"
MOST_DOUBLINGS = 32


@dataclass(frozen=True)
class Event:
    """What somebody may want to be told of: `restart`, `quarantine`, `recovered` or `released`."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Decision:
    memory: Memory
    action: str = NONE
    reason: str = ""
    """Of the action, or of its absence where one is wanted."""
    events: tuple[Event, ...] = ()


def decide(memory: Memory, verdict: Verdict, now: float, settings: Settings, hold: str = "") -> Decision:
    """What to do about a verdict, and what to remember of it. Save the memory before the action is taken.

    :param hold: Why a restart would do harm or no good, as where a GPU is lost; none is made then.
    """
    if verdict.state == UNKNOWN or verdict.restarts == UNCOUNTED:
        # Who started a server that nobody has counted cannot be told: taken for an operator's, it would be forgiven.
        return Decision(_follow_service(memory, verdict, now, settings))
    memory, events, crashed = _follow_server(memory, verdict, now, settings)
    memory = _forget(_follow_service(memory, verdict, now, settings), now, settings)
    if memory.recovering and verdict.serves and not (memory.acted or memory.quarantine):
        events = (*events, Event(RECOVERED, f"it serves again: {verdict.evidence}"))
        memory = replace(memory, recovering=False)
    decision = _act(memory, verdict, now, settings, crashed, hold)
    return replace(decision, events=(*events, *decision.events))


def backoff_seconds(restarts: int, settings: Settings) -> float:
    """How long the next restart waits after so many."""
    if not restarts:
        return 0.0
    return min(settings.backoff_seconds * 2.0 ** min(restarts - 1, MOST_DOUBLINGS), settings.backoff_max_seconds)


# What the verdict tells of the time since the last one


def _follow_server(
    memory: Memory, verdict: Verdict, now: float, settings: Settings
) -> tuple[Memory, tuple[Event, ...], bool]:
    """Take in which server runs and who started it; whether its runtime did because the one before had ended."""
    if verdict.server in ("", memory.server):
        return _without_another(memory, verdict), (), False
    ours = memory.acted in (RESTART, KILL)
    if not ours and _started_by_hand(memory, verdict):
        released = (Event(RELEASED, f"somebody started it: {verdict.evidence}"),) if memory.quarantine else ()
        return Memory(server=verdict.server, runtime_restarts=verdict.restarts), released, False
    crashes = max(_runtime_restarts(memory, verdict) - ours, 0)
    memory = replace(
        memory,
        server=verdict.server,
        refused=False,
        runtime_restarts=verdict.restarts,
        started_by_hand=False,
        acted="",
        serving_since=None,
    )
    if not crashes:
        return memory, (), False
    memory = _remember(memory, crashes, now, settings)
    spent = f"{len(memory.restarts)} of {settings.restart_budget} restarts are spent"
    return memory, (Event(RESTART, f"it ended, and its runtime started it again; {spent}"),), True


def _without_another(memory: Memory, verdict: Verdict) -> Memory:
    if verdict.server:
        return replace(memory, refused=False, runtime_restarts=max(memory.runtime_restarts, verdict.restarts))
    if verdict.restarts < memory.runtime_restarts:
        memory = replace(memory, runtime_restarts=verdict.restarts, started_by_hand=True)
    return replace(memory, refused=memory.refused or verdict.refused)


def _started_by_hand(memory: Memory, verdict: Verdict) -> bool:
    anew = verdict.restarts == 0 or verdict.restarts < memory.runtime_restarts
    return anew or memory.started_by_hand or not memory.server


def _runtime_restarts(memory: Memory, verdict: Verdict) -> int:
    """How many servers the runtime started since the last one that was seen."""
    grown = max(verdict.restarts - memory.runtime_restarts, 0)
    # The count also grows with each start that the launcher refuses: a port may be taken for hours.
    return min(grown, 1) if memory.refused else grown


def _follow_service(memory: Memory, verdict: Verdict, now: float, settings: Settings) -> Memory:
    if not verdict.serves:
        return replace(memory, serving_since=None)
    since = now if memory.serving_since is None else memory.serving_since
    memory = replace(memory, serving_since=since)
    steady_at = since + settings.stable_seconds
    if now < steady_at:
        return memory
    memory = replace(memory, steady_at=steady_at)
    # An action that a mended server has outlived never came about.
    return memory if _awaits_effect(memory, now, settings) else replace(memory, acted="")


def _forget(memory: Memory, now: float, settings: Settings) -> Memory:
    oldest = now - settings.restart_window_seconds
    unproven = set(_unproven(memory))
    return replace(memory, restarts=tuple(at for at in memory.restarts if at >= oldest or at in unproven))


def _unproven(memory: Memory) -> tuple[float, ...]:
    """Restarts since which no server has served steadily."""
    steady_at = memory.steady_at
    return memory.restarts if steady_at is None else tuple(at for at in memory.restarts if at >= steady_at)


def _remember(memory: Memory, count: int, now: float, settings: Settings) -> Memory:
    # More than one beyond the budget would change nothing.
    most = settings.restart_budget + 1
    restarts = (*memory.restarts, *[now] * min(count, most))[-most:]
    return replace(memory, restarts=restarts, recovering=True)


# What to do


def _act(memory: Memory, verdict: Verdict, now: float, settings: Settings, crashed: bool, hold: str) -> Decision:
    if verdict.state == DRAINING:
        return Decision(memory)
    if memory.quarantine:
        return _keep_out(memory, verdict, now, settings)
    if hold:
        return Decision(memory, reason=hold)
    if crashed and len(_unproven(memory)) > settings.restart_budget:
        return _quarantine(memory, verdict, now, f"it does not stay up: {verdict.evidence}")
    if verdict.state in (HUNG, FAILED):
        return _mend(memory, verdict, now, settings)
    return Decision(memory)


def _mend(memory: Memory, verdict: Verdict, now: float, settings: Settings) -> Decision:
    acted_before = bool(memory.acted) and memory.acted_on == verdict.server
    if acted_before and _awaits_effect(memory, now, settings):
        return Decision(memory, reason=f"the last {memory.acted} has yet to take effect")
    spent, budget = len(memory.restarts), settings.restart_budget
    if spent >= budget:
        return _quarantine(memory, verdict, now, verdict.evidence)
    pause = backoff_seconds(spent, settings)
    if spent and now - memory.restarts[-1] < pause:
        return Decision(memory, reason=f"restart {spent + 1} of {budget} waits for {pause:g} s after the last one")
    action = _remedy(verdict, acted_before)
    reason = f"{action}, {spent + 1} of {budget}: {verdict.evidence}"
    memory = replace(_remember(memory, 1, now, settings), acted=action, acted_on=verdict.server, acted_at=now)
    return Decision(memory, action, reason, (Event(RESTART, reason),))


def _remedy(verdict: Verdict, acted_before: bool) -> str:
    if not verdict.server:
        return RESTART  # there is nothing to kill
    return KILL if acted_before or verdict.lost or verdict.state == HUNG else RESTART


def _awaits_effect(memory: Memory, now: float, settings: Settings) -> bool:
    return memory.acted_at is not None and now - memory.acted_at < settings.action_timeout_seconds


def _quarantine(memory: Memory, verdict: Verdict, now: float, trouble: str) -> Decision:
    reason = f"left stopped after {len(memory.restarts)} restarts: {trouble}"
    memory = replace(memory, quarantine=reason, acted=QUARANTINE, acted_on=verdict.server, acted_at=now)
    return Decision(memory, QUARANTINE, reason, (Event(QUARANTINE, reason),))


def _keep_out(memory: Memory, verdict: Verdict, now: float, settings: Settings) -> Decision:
    if not verdict.server or _awaits_effect(memory, now, settings):
        return Decision(memory)
    return Decision(replace(memory, acted_on=verdict.server, acted_at=now), QUARANTINE, memory.quarantine)
