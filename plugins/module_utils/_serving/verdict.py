# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What looks at an instance mean, and nothing of what to do about it.

A server is hung where its engine has made no step for the grace time while it has work, and a one-token request
finds no answer either; or where its API server neither answers nor computes. Slow is not hung, nor is what waits for a
processor that others use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import metrics
from .client import Answer
from .process import Work

LOADING = "loading"
READY = "ready"
BUSY = "busy"
HUNG = "hung"
DOWN = "down"
DRAINING = "draining"
FAILED = "failed"
UNKNOWN = "unknown"
STATES = (LOADING, READY, BUSY, HUNG, DOWN, DRAINING, FAILED, UNKNOWN)

ON_THE_MOVE = ("stopped", "starting")
"""States of a unit whose server is on its way out, although it may still be seen."""
SUSPECT_SECONDS = 4.0
"""An engine that has work and stands still for this long is asked for a token."""
SLOW_SECONDS = 2.0
"""An answer that takes longer makes a server a busy one."""
SILENT_SECONDS = 5.0
"""An API server that has neither answered nor worked for this long is not sent requests."""
IDLE_SHARE = 0.01
"""Less of a processor than this is no work."""
STARVED_SHARE = 0.5
"""An engine that waits for a processor for more of its time than this cannot be told from a hung one yet."""
PROGRESS_CPU_SECONDS = 0.25
PROGRESS_BYTES = 1 << 20
UNCOUNTED = -1
PROBE_FAILURES = 3
"""One-token requests in a row that end with a server error make a server a failed one."""


@dataclass(frozen=True)
class Verdict:
    """What an instance is, by the looks so far."""

    state: str
    evidence: str
    """One sentence."""
    server: str = ""
    """Identity of its server's process, "<pid>:<start ticks>"; empty where none runs."""
    lost: bool = False
    """Nothing that is in flight can finish."""
    serves: bool = False
    """Requests may be sent there."""
    restarts: int = 0
    """How often its runtime has started it by itself since somebody did; UNCOUNTED where it did not say."""
    refused: bool = False
    """Its launcher keeps it from its start, which the runtime tries again and again."""


@dataclass(frozen=True)
class Unit:
    """What the runtime says of an instance."""

    state: str
    """`running`, `starting`, `stopping`, `stopped` (by somebody) or `failed` (the runtime gave up)."""
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Look:
    """One look at an instance. Times are of the monotonic clock, in seconds."""

    at: float
    server: str = ""
    age_seconds: float = 0.0
    """Of the server's process."""
    unit: Unit | None = None
    """Asked for where the process alone does not tell; None also where the runtime did not answer."""
    obstacle: str = ""
    """Why the launcher does not start it."""
    health: Answer | None = None
    """An answer to /health, or the failure of it, that came since the look before."""
    engines: dict[str, metrics.Engine] | None = None
    load: int = 0
    """Requests in the API server, one that this program sent included."""
    asked_seconds: float = 0.0
    """How long a question that is still open has been so; 0 where none is."""
    probe: Answer | None = None
    """The end of a one-token request since the look before."""
    probe_seconds: float = 0.0
    """How long a one-token request that is still open has been so; 0 where none is."""
    gone: tuple[str, ...] = ()
    """Engine processes that this server had and has no more."""
    stopped: tuple[str, ...] = ()
    """Processes that are stopped by a signal or a debugger."""
    compiler: str = ""
    """A compiler that it has started and that is at work."""
    work: Work = field(default_factory=Work)
    """Of all its processes, ever."""
    api_busy_seconds: float = 0.0
    """In which the API server has computed or waited for a processor, ever."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """How long each engine process has waited for a processor, ever, by its name."""


@dataclass(frozen=True)
class Thresholds:
    """Times in seconds."""

    hang_grace_seconds: float = 20.0
    """An engine with work may stand still for this long: ten times the longest step that is usual."""
    idle_probe_seconds: float = 10.0
    """An idle engine is asked for a token this often."""
    unresponsive_seconds: float = 120.0
    """A server that uses its processors may owe every answer for this long: saturated ones take 40 s."""
    load_stall_seconds: float = 120.0
    """A load that neither computes nor reads for this long goes on no more."""
    start_grace_seconds: float = 600.0
    """A load may take this long."""


@dataclass
class _Track:
    """An engine's step counter, and since when it stands."""

    steps: float
    moved_at: float
    idle_at: float
    """When it last had nothing to do."""
    engine: metrics.Engine
    waits: Mapping[str, float]
    """Of the look at which it last moved or idled."""

    def still_seconds(self, now: float) -> float:
        return now - max(self.moved_at, self.idle_at)

    def waited_seconds(self, look: Look) -> float:
        """Of that, how long one of the engine processes has waited for a processor."""
        return max((waited - self.waits.get(name, waited) for name, waited in look.waits.items()), default=0.0)


@dataclass
class _Server:
    """What is known of one process of a server; another process begins anew."""

    identity: str
    since: float
    """Start of the process."""
    seen_at: float
    """First look at it, which may be long after its start."""
    heard_at: float
    """Last answer of any kind, or the first look."""
    api_busy_seconds: float
    """When its API server was last seen to work."""
    api_worked_at: float
    restarts: int = UNCOUNTED
    answered: bool = False
    served: bool = False
    tracks: dict[str, _Track] = field(default_factory=dict)
    read_at: float = 0.0
    """When its metrics could last be read."""
    load: int = 0
    work: Work = field(default_factory=Work)
    worked_at: float = 0.0
    probed_at: float = 0.0
    probe_open_seconds: float = 0.0
    probe_failures: int = 0
    probe_refused: str = ""
    """Why a one-token request says nothing of the engine, of the last one."""
    serving: bool = False

    def skip(self, seconds: float) -> None:
        """Count no standstill for that long: nobody looked."""
        self.heard_at += seconds
        self.api_worked_at += seconds
        self.worked_at += seconds
        self.read_at += seconds
        for track in self.tracks.values():
            track.moved_at += seconds
            track.idle_at += seconds


class Judge:
    """Judges the looks at one instance, one after another."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._limits = thresholds
        self._server: _Server | None = None
        self._now = 0.0

    def judge(self, look: Look) -> Verdict:
        unseen, self._now = look.at - self._now, look.at
        if not look.server:
            self._server = None
            return _without_server(look)
        if self._server:
            # It may be the watcher, or all of the host, that stood still between two looks.
            self._server.skip(max(0.0, unseen - self._limits.hang_grace_seconds / 2))
        server = self._known(look)
        self._take(server, look)
        verdict = self._of_server(server, look)
        if verdict.state in (HUNG, FAILED) and look.unit and look.unit.state in ON_THE_MOVE:
            verdict = self._verdict(server, DRAINING, "its runtime has stopped it")
        server.serving = verdict.serves
        return verdict

    @property
    def wants_probe(self) -> bool:
        """Whether the next look should bring a one-token request on its way."""
        server = self._server
        if server is None or not server.answered or server.probe_open_seconds:
            return False
        if not server.served or server.probe_failures:
            return True
        still = [track.still_seconds(self._now) for track in server.tracks.values()]
        if any(seconds >= SUSPECT_SECONDS for seconds in still):
            return True
        # Each engine must be seen to work; of several, an idle one is sent the request.
        moved = min([track.moved_at for track in server.tracks.values()], default=0.0)
        return self._now - max(moved, server.probed_at) >= self._limits.idle_probe_seconds

    @property
    def settled(self) -> bool:
        """Whether there is no need to look more often than usual."""
        return self._server is not None and self._server.served

    def _known(self, look: Look) -> _Server:
        if self._server is None or self._server.identity != look.server:
            self._server = _Server(
                identity=look.server,
                since=look.at - look.age_seconds,
                seen_at=look.at,
                heard_at=look.at,
                api_busy_seconds=look.api_busy_seconds,
                api_worked_at=look.at,
                work=look.work,
                worked_at=look.at,
                read_at=look.at,
                probed_at=look.at,
            )
        if look.unit:
            self._server.restarts = look.unit.restarts
        return self._server

    # What a look brings

    def _take(self, server: _Server, look: Look) -> None:
        if look.health and look.health.status:
            server.heard_at, server.answered = look.at, True
            server.load = look.load
        if look.work.exceeds(server.work, PROGRESS_CPU_SECONDS, PROGRESS_BYTES):
            server.work, server.worked_at = look.work, look.at
        # Since it last worked or answered: what it did before it stopped, and how long it idled, says nothing of now.
        busy, seconds = look.api_busy_seconds - server.api_busy_seconds, look.at - server.api_worked_at
        if server.heard_at == look.at or (busy > 0 and busy >= IDLE_SHARE * seconds):
            server.api_busy_seconds, server.api_worked_at = look.api_busy_seconds, look.at
        self._take_probe(server, look)
        if look.engines is not None:
            self._take_engines(server, look)

    def _take_probe(self, server: _Server, look: Look) -> None:
        server.probe_open_seconds = look.probe_seconds
        if look.probe is None:
            return
        server.probed_at = look.at
        status = look.probe.status
        server.probe_refused = ""
        if look.probe.ok:
            server.served, server.probe_failures = True, 0
        elif status is not None and status < 500:
            # It cannot be asked this way, so its own word is all there is.
            server.served, server.probe_refused = True, str(look.probe)
        elif status is not None and status != 503:
            server.probe_failures += 1

    def _take_engines(self, server: _Server, look: Look) -> None:
        engines = look.engines or {}
        server.read_at = look.at
        alone = len(engines) == 1
        for label, engine in engines.items():
            in_flight = engine.in_flight or (alone and (look.load > 0 or look.probe_seconds > 0))
            track = server.tracks.get(label)
            if track is None:
                server.tracks[label] = _Track(engine.steps, look.at, look.at, engine, look.waits)
                continue
            if engine.steps != track.steps:
                track.steps, track.moved_at = engine.steps, look.at
            if not in_flight or engine.asleep:
                track.idle_at = look.at
            if track.still_seconds(look.at) == 0:
                track.waits = look.waits
            track.engine = engine
        # A program that begins to watch a server at work need not ask whether it ever worked.
        if not server.served and sum(engine.steps for engine in engines.values()) > 0:
            server.served = True

    # What it means

    def _of_server(self, server: _Server, look: Look) -> Verdict:
        if look.unit and look.unit.state == "stopping":
            return self._verdict(server, DRAINING, "its runtime is stopping it")
        if look.gone:
            return self._verdict(server, FAILED, f"{_listed(look.gone)} is gone", lost=True)
        if look.health and look.health.status == 503:
            return self._verdict(server, FAILED, "/health answers 503: its engine is dead", lost=True)
        if not server.answered:
            return self._loading(server, look)
        if look.asked_seconds or not (look.health and look.health.status):
            return self._without_answer(server, look)
        if look.health.status != 200:
            return self._verdict(server, UNKNOWN, f"/health answers {look.health}: is that vLLM?")
        return self._answering(server, look)

    def _loading(self, server: _Server, look: Look) -> Verdict:
        age, still = look.at - server.since, look.at - server.worked_at
        late = age >= self._limits.start_grace_seconds
        # One that was first seen late in its life need not be loading: it may only be slow to answer.
        if late and look.at - server.seen_at >= self._limits.unresponsive_seconds:
            return self._verdict(server, HUNG, f"still loading after {age:.0f} s", lost=True)
        if still >= self._limits.load_stall_seconds:
            return self._verdict(
                server, HUNG, f"its load neither computes nor reads for {still:.0f} s{_stopped(look)}", lost=True
            )
        if late:
            return self._verdict(
                server, UNKNOWN, f"has not answered since it was first seen, {look.at - server.seen_at:.0f} s ago"
            )
        return self._verdict(
            server,
            LOADING,
            f"loads for {age:.0f} s: {look.work.cpu_seconds:.0f} s of processor time,"
            f" {look.work.read_bytes >> 20} MiB read",
        )

    def _without_answer(self, server: _Server, look: Look) -> Verdict:
        silent = look.at - server.heard_at
        idle = min(silent, look.at - server.api_worked_at)
        refused = look.health is not None and look.health.refused
        reason = "refuses connections" if refused else "does not answer"
        if max(idle, silent if refused else 0.0) >= self._limits.hang_grace_seconds:
            worked = "" if refused else f", and does not work for {idle:.0f} s"
            return self._verdict(
                server, HUNG, f"its API server {reason} for {silent:.0f} s{worked}{_stopped(look)}", lost=True
            )
        if silent >= self._limits.unresponsive_seconds:
            return self._verdict(
                server, HUNG, f"its API server {reason} for {silent:.0f} s, busy with itself", lost=True
            )
        if refused or idle >= SILENT_SECONDS:
            return self._verdict(server, UNKNOWN, f"its API server {reason} for {silent:.0f} s{_stopped(look)}")
        if look.health is not None and not look.asked_seconds:
            return self._verdict(server, UNKNOWN, f"/health: {look.health}", serves=server.serving)
        if silent < SLOW_SECONDS:
            return self._at_work(server, "answers")
        return self._at_work(server, f"has not answered for {silent:.0f} s, and works")

    def _answering(self, server: _Server, look: Look) -> Verdict:
        if not server.served:
            return self._first_token(server, look)
        if server.probe_failures >= PROBE_FAILURES:
            return self._verdict(
                server, FAILED, f"{server.probe_failures} one-token requests in a row ended with a server error"
            )
        stalled = self._stalled(server, look)
        return stalled or self._at_work(server, "answers")

    def _first_token(self, server: _Server, look: Look) -> Verdict:
        """Loaded, and not yet seen to give a token: a first request may compile for long, so it is still a start."""
        age, still = look.at - server.since, look.at - server.worked_at
        if server.probe_failures >= PROBE_FAILURES:
            return self._verdict(
                server, FAILED, f"its first {server.probe_failures} one-token requests ended with a server error"
            )
        late = age >= self._limits.start_grace_seconds and look.probe_seconds >= self._limits.unresponsive_seconds
        if late or (still >= self._limits.hang_grace_seconds <= look.probe_seconds and not look.compiler):
            return self._verdict(
                server, HUNG, f"its first token is owed for {look.probe_seconds:.0f} s{_stopped(look)}", lost=True
            )
        return self._verdict(server, LOADING, f"loaded; its first token is owed for {look.probe_seconds:.0f} s")

    def _stalled(self, server: _Server, look: Look) -> Verdict | None:
        grace = self._limits.hang_grace_seconds
        if look.engines is None and look.at - server.read_at < self._limits.unresponsive_seconds:
            return None  # what the counters did meanwhile is not known
        if look.engines is None or not any(track.steps for track in server.tracks.values()):
            # No step counter to go by, as with --disable-log-stats: patience is all that tells slow from hung.
            if look.probe_seconds >= self._limits.unresponsive_seconds:
                return self._verdict(
                    server, HUNG, f"a one-token request is unanswered for {look.probe_seconds:.0f} s", lost=True
                )
            return None
        for track in server.tracks.values():
            still = track.still_seconds(look.at)
            # An engine that has nothing by its own word may wait for the API server, which prepares the request.
            patience = grace / 2 if track.engine.in_flight else grace
            confirmed = look.probe_seconds >= patience or (server.probe_refused and track.engine.in_flight)
            # One of several that froze while idle goes on looking idle, so that all requests are sent to it.
            unheard = min(look.probe_seconds, look.at - track.moved_at)
            if unheard >= self._limits.unresponsive_seconds:
                still, confirmed = unheard, True
            if still < grace or not confirmed or track.engine.asleep:
                continue
            waited = track.waited_seconds(look)
            if waited >= STARVED_SHARE * still and still < self._limits.unresponsive_seconds:
                return self._verdict(
                    server, BUSY, f"no engine step for {still:.0f} s: it waits for a processor", serves=True
                )
            if look.compiler and still < self._limits.start_grace_seconds:
                return self._verdict(
                    server, BUSY, f"no engine step for {still:.0f} s: {look.compiler} is at work", serves=True
                )
            return self._verdict(
                server,
                HUNG,
                f"no engine step for {still:.0f} s with {track.engine.running:.0f} requests running,"
                f" {track.engine.waiting:.0f} waiting and {server.load} in the API server; a one-token request is"
                f" unanswered for {look.probe_seconds:.0f} s{_stopped(look)}",
                lost=True,
            )
        return None

    def _at_work(self, server: _Server, evidence: str) -> Verdict:
        if not server.served:
            return self._verdict(server, LOADING, f"loaded; {evidence}")
        running = sum(track.engine.running for track in server.tracks.values())
        waiting = sum(track.engine.waiting for track in server.tracks.values())
        state = BUSY if waiting or evidence != "answers" else READY
        return self._verdict(server, state, f"{evidence}; {running:.0f} requests run, {waiting:.0f} wait", serves=True)

    @staticmethod
    def _verdict(server: _Server, state: str, evidence: str, lost: bool = False, serves: bool = False) -> Verdict:
        return Verdict(state, evidence, server.identity, lost, serves, server.restarts)


def _without_server(look: Look) -> Verdict:
    unit = look.unit
    if unit is None:
        return Verdict(UNKNOWN, "it has no process, and its runtime does not say why")
    if unit.state == "stopping":
        return Verdict(DOWN, "it has ended, and its runtime clears up after it", restarts=unit.restarts)
    if unit.state == "failed":
        return Verdict(FAILED, f"its runtime has given up on it: {unit.detail}", restarts=unit.restarts)
    if look.obstacle:
        return Verdict(DOWN, f"it cannot start: {look.obstacle}", restarts=unit.restarts, refused=True)
    if unit.state == "stopped":
        return Verdict(DOWN, "it is stopped", restarts=unit.restarts)
    return Verdict(DOWN, "it has ended, and its runtime starts it again", restarts=unit.restarts)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _stopped(look: Look) -> str:
    return f"; stopped by a signal: {_listed(look.stopped)}" if look.stopped else ""
