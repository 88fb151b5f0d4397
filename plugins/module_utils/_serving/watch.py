# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at one instance, again and again.

A question that is not answered stays open while looks go on: giving up and asking anew would never hear a saturated
server, whose answers take 40 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from . import client, metrics, probe, process
from .client import Answer
from .instance import Instance
from .process import Stat, Work
from .runtime import CommandFailed
from .verdict import Look, Unit

COMPILERS = ("nvcc", "cicc", "ptxas", "fatbinary", "ninja", "cc1", "cc1plus", "clang", "clang++", "gcc", "g++")
PATIENCE_SECONDS = 300.0
"""No question stays open for longer; a verdict is due long before."""

Result = TypeVar("Result")


class Runtime(Protocol):
    """What a watcher asks of the runtime; see runtime.py."""

    async def units(self, names: Collection[str]) -> dict[str, Unit]: ...

    def processes(self, main: int) -> list[int]: ...


@dataclass(frozen=True)
class _Scrape:
    health: Answer
    engines: dict[str, metrics.Engine] | None = None
    load: int = 0


@dataclass
class _Question:
    """A request on its way, and since when."""

    task: asyncio.Task[Any]
    asked_at: float


@dataclass
class _Family:
    """The processes of a server."""

    main: int
    stats: dict[int, Stat] = field(default_factory=dict)
    ours: dict[tuple[int, int], bool] = field(default_factory=dict)
    engines: dict[tuple[int, int], str] = field(default_factory=dict)


class Watcher:
    """Looks at one instance. Everything it learns of a server goes with the server's process.

    :param wake: Called when a process of the server has ended or a one-token request was answered, at once.
    """

    def __init__(self, instance: Instance, runtime: Runtime, wake: Callable[[], None] = lambda: None) -> None:
        self.instance = instance
        self._runtime = runtime
        self._wake = wake
        self._identity = ""
        self._unit_known = False
        self._family = _Family(0)
        self._scrape: _Question | None = None
        self._probe: _Question | None = None
        self._followed: dict[int, int] = {}

    async def look(self, wait_seconds: float, probe_too: bool = False) -> Look:
        """One look, which waits at most that long for answers.

        :param probe_too: Send a one-token request as well, where none is on its way.
        """
        main = self._main()
        identity = f"{main[0]}:{main[1].start_ticks}" if main else ""
        changed = identity != self._identity
        if changed:
            self._forget()
            self._identity = identity
        if main is None:
            return await self._without_server()
        if changed:
            self._family = _Family(main[0])
            self._unit_known = False
            self._follow([main[0]])
        if probe_too and self._probe is None:
            self._probe = self._ask(self._one_token())
            self._probe.task.add_done_callback(lambda _task: self._wake())
        self._scrape = self._scrape or self._ask(self._look_around())
        await asyncio.wait({self._scrape.task}, timeout=wait_seconds)
        look = await self._seen(main[1])
        # One that has ended meanwhile is no server to judge: what is done about it would be done to the next.
        return look if self._runs() else await self._without_server()

    def close(self) -> None:
        """Drop what is on its way."""
        self._forget()

    async def _without_server(self) -> Look:
        return Look(time.monotonic(), unit=await self._unit(), obstacle=self._obstacle())

    async def _seen(self, main: Stat) -> Look:
        scrape, asked_seconds, self._scrape = _collect(self._scrape)
        answer, probe_seconds, self._probe = _collect(self._probe)
        self._read_family()
        gone = self._gone()
        health = scrape.health if scrape else None
        if health and health.ok:
            self._note_engines()
        # A server on its way out loses its engines and its port in due order, which only the runtime can tell.
        doubtful = (
            not self._unit_known
            or gone
            or (health is not None and not health.ok)
            or os.path.exists(self.instance.stopping_path)
        )
        stats = self._family.stats
        return Look(
            at=time.monotonic(),
            server=self._identity,
            age_seconds=process.age_seconds(main.start_ticks),
            unit=await self._unit() if doubtful else None,
            health=health,
            engines=scrape.engines if scrape else None,
            load=scrape.load if scrape else 0,
            asked_seconds=asked_seconds,
            probe=answer,
            probe_seconds=probe_seconds,
            gone=gone,
            stopped=tuple(sorted(f"{stat.name} ({pid})" for pid, stat in stats.items() if stat.stopped)),
            compiler=next((stat.name for stat in stats.values() if stat.name in COMPILERS), ""),
            work=Work(
                sum(stat.cpu_seconds for stat in stats.values()),
                # What a server reads is of interest while it loads.
                0 if self._family.engines else sum(map(process.read_bytes, stats)),
            ),
            api_busy_seconds=self._busy_seconds(),
            waits={name: process.waited_seconds(pid) for (pid, _start), name in self._family.engines.items()},
        )

    # The server's processes

    def _main(self) -> tuple[int, Stat] | None:
        """Main process of the server."""
        known = self._runs()
        if known:
            return self._family.main, known
        pid = self.instance.recorded()
        stat = process.living(pid)
        # The record may be an old one, and its pid another program's by now.
        return (pid, stat) if stat and process.belongs_to(pid, self.instance.name) else None

    def _runs(self) -> Stat | None:
        """The main process of the server that was looked at last, if it is still that one."""
        stat = process.living(self._family.main)
        return stat if stat and self._identity == f"{self._family.main}:{stat.start_ticks}" else None

    def _read_family(self) -> None:
        family = self._family
        known, family.ours, family.stats = family.ours, {}, {}
        for pid in self._runtime.processes(family.main):
            stat = process.living(pid)
            if stat is None:
                continue
            key = (pid, stat.start_ticks)
            family.ours[key] = known[key] if key in known else process.belongs_to(pid, self.instance.name)
            if family.ours[key]:
                family.stats[pid] = stat

    def _busy_seconds(self) -> float:
        main = self._family.stats.get(self._family.main)
        return main.cpu_seconds + process.waited_seconds(self._family.main) if main else 0.0

    def _note_engines(self) -> None:
        for pid, stat in self._family.stats.items():
            if stat.name.startswith(process.TITLE) and (pid, stat.start_ticks) not in self._family.engines:
                self._family.engines[pid, stat.start_ticks] = f"{stat.name} ({pid})"
                self._follow([pid])

    def _gone(self) -> tuple[str, ...]:
        present = {(pid, stat.start_ticks) for pid, stat in self._family.stats.items()}
        return tuple(sorted(name for key, name in self._family.engines.items() if key not in present))

    def _follow(self, pids: list[int]) -> None:
        """Have the kernel say when a process ends, rather than find out at the next look."""
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except (AttributeError, OSError):
                continue  # an old kernel, or gone already: the next look finds out
            self._followed[descriptor] = pid
            asyncio.get_running_loop().add_reader(descriptor, self._ended, descriptor)

    def _ended(self, descriptor: int) -> None:
        self._unfollow(descriptor)
        self._wake()

    def _unfollow(self, descriptor: int) -> None:
        if self._followed.pop(descriptor, None) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    # Questions

    async def _look_around(self) -> _Scrape:
        health, page, counted = await client.get_all(
            self.instance.address, self.instance.port, ("/health", "/metrics", "/load"), PATIENCE_SECONDS
        )
        engines = metrics.parse(page.body) if page.ok else None
        return _Scrape(health, engines, metrics.in_api_server(counted) or 0)

    async def _one_token(self) -> Answer:
        return await probe.one_token(self.instance, PATIENCE_SECONDS)

    def _ask(self, question: Coroutine[Any, Any, Result]) -> _Question:
        return _Question(asyncio.get_running_loop().create_task(question), time.monotonic())

    def _forget(self) -> None:
        for question in (self._scrape, self._probe):
            if question:
                question.task.cancel()
        self._scrape = self._probe = None
        for descriptor in list(self._followed):
            self._unfollow(descriptor)

    # The runtime

    async def _unit(self) -> Unit | None:
        with contextlib.suppress(CommandFailed):
            unit = (await self._runtime.units([self.instance.name])).get(self.instance.name)
            self._unit_known = unit is not None
            return unit
        return None

    def _obstacle(self) -> str:
        try:
            with open(self.instance.obstacle_path, encoding="utf-8") as stream:
                return stream.read(1000).strip()
        except (OSError, ValueError):
            return ""


def _collect(question: _Question | None) -> tuple[Any, float, _Question | None]:
    """Result of a question that has ended, else how long it has been open; and what of it stays."""
    if question is None:
        return None, 0.0, None
    if question.task.done():
        return question.task.result(), 0.0, None
    # Never 0, which means that nothing is open.
    return None, max(time.monotonic() - question.asked_at, 1e-6), question
