# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the simulator, judged: what is seen of a server that loads, freezes, saturates and dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import watch
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import (
    BUSY,
    DOWN,
    DRAINING,
    FAILED,
    HUNG,
    LOADING,
    READY,
    UNKNOWN,
    Judge,
    Look,
    Thresholds,
    Unit,
    Verdict,
)
from doubles.node import Runtime, Server

LIMITS = Thresholds(hang_grace_seconds=4, idle_probe_seconds=0.5, unresponsive_seconds=20, load_stall_seconds=6)
# The judge's clock began with the look before the fault.
EARLIEST = 0.8


class Node(Server):
    """A simulated server with its watcher and its judge."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.runtime = Runtime(Unit("running", restarts=2))
        self.woken = 0
        self.looked_at = time.monotonic()
        self.verdict = Verdict(UNKNOWN, "")

    def watch(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a story in which look() and until() may be called."""

        async def run() -> None:
            self.changed = asyncio.Event()
            self.watcher = watch.Watcher(self.instance, self.runtime, self._wake)
            self.judge = Judge(LIMITS)
            try:
                await story()
            finally:
                self.watcher.close()

        asyncio.run(run())

    def _wake(self) -> None:
        self.woken += 1
        self.changed.set()

    async def look(self) -> Look:
        self.looked_at = time.monotonic()
        look = await self.watcher.look(0.3, self.judge.wants_probe)
        self.verdict = self.judge.judge(look)
        return look

    async def answer(self) -> tuple[Look, int]:
        """The first look that gets an answer in time, and how often the runtime was asked for it."""
        while True:
            asked = self.runtime.asked
            look = await self.look()
            if look.engines is not None:
                return look, self.runtime.asked - asked

    async def until(self, state: str, seconds: float = 60, *, mends: bool = False) -> float:
        """Look until it is so; the time since the last look before, which may be long ago where processors are busy."""
        last, begin = self.looked_at, time.monotonic()
        while time.monotonic() - begin < seconds:
            await self.look()
            if self.verdict.state == state:
                return time.monotonic() - last
            assert mends or self.verdict.state not in (HUNG, FAILED), self.verdict
            await asyncio.sleep(0.1)
        raise AssertionError(f"not {state} within {seconds} s but {self.verdict}")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.end()


@pytest.fixture
def ready(node: Node) -> Node:
    node.start()
    return node


def test_loading_then_ready(node: Node) -> None:
    async def story() -> None:
        # Held until it was looked at, however long that takes.
        os.killpg(node.pid, signal.SIGSTOP)
        await node.look()
        assert (node.verdict.state, node.verdict.restarts) == (LOADING, 2)
        os.killpg(node.pid, signal.SIGCONT)
        await node.until(READY)
        assert node.verdict.serves
        assert node.verdict.server.startswith(f"{node.pid}:")
        look, asked = await asyncio.wait_for(node.answer(), 60)
        assert look.engines is not None
        assert look.engines["0"].steps >= 1
        assert 0 < look.age_seconds < 60
        assert min(look.work.cpu_seconds, look.api_busy_seconds) > 0
        assert [name.split()[0] for name in look.waits] == ["VLLM::EngineCor"]
        assert asked == 0, "a healthy server is no reason to run systemctl"

    node.start(SIM_LOAD_SECONDS="1")
    node.watch(story)


def test_stalled_load(node: Node) -> None:
    async def story() -> None:
        await node.look()
        os.killpg(node.pid, signal.SIGSTOP)
        assert await node.until(HUNG) >= EARLIEST * LIMITS.load_stall_seconds
        assert "stopped by a signal" in node.verdict.evidence

    node.start(SIM_LOAD_SECONDS="60")
    node.watch(story)


def test_frozen_engine(ready: Node) -> None:
    async def story() -> None:
        await ready.until(READY)
        ready.tell(hang=True)
        assert await ready.until(HUNG) >= EARLIEST * LIMITS.hang_grace_seconds
        assert ready.verdict.lost
        assert "stopped by a signal: VLLM::EngineCor" in ready.verdict.evidence
        ready.tell(resume=True)
        await ready.until(READY, mends=True)

    ready.watch(story)


def test_engine_killed_is_told_at_once(ready: Node) -> None:
    async def story() -> None:
        await ready.until(READY)
        ready.changed.clear()
        woken = ready.woken
        ready.tell(die="engine")
        # No look is taken: it is the kernel that tells.
        await asyncio.wait_for(ready.changed.wait(), 30)
        assert ready.woken > woken
        look = await ready.look()
        assert len(look.gone) == 1
        assert (ready.verdict.state, ready.verdict.lost, ready.verdict.serves) == (FAILED, True, False)
        ready.runtime.unit = Unit("stopping")
        await ready.look()
        assert ready.verdict.state == DRAINING

    ready.watch(story)


def test_server_killed_and_started_again(ready: Node) -> None:
    async def story() -> None:
        await ready.until(READY)
        before = ready.verdict.server
        ready.changed.clear()
        ready.end()
        await asyncio.wait_for(ready.changed.wait(), 30)
        await ready.look()
        assert (ready.verdict.state, ready.verdict.server) == (DOWN, "")
        ready.runtime.unit = None
        await ready.look()
        assert ready.verdict.state == UNKNOWN
        ready.start()
        await ready.until(READY)
        assert ready.verdict.server != before

    ready.watch(story)


def test_server_that_ends_while_it_is_looked_at(ready: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be said of it would be done to the next."""

    async def units(_names: Collection[str]) -> dict[str, Unit]:
        ready.end()
        return {ready.instance.name: ready.runtime.unit}

    async def story() -> None:
        await ready.until(READY)
        monkeypatch.setattr(ready.runtime, "units", units)
        Path(ready.instance.stopping_path).touch()
        look = await ready.watcher.look(0.5)
        assert (look.server, look.gone, look.unit) == ("", (), ready.runtime.unit)

    ready.watch(story)


def test_stopped_api_server(ready: Node) -> None:
    async def story() -> None:
        await ready.until(READY)
        os.kill(ready.pid, signal.SIGSTOP)
        assert await ready.until(HUNG) >= EARLIEST * LIMITS.hang_grace_seconds
        assert f"({ready.pid})" in ready.verdict.evidence
        os.kill(ready.pid, signal.SIGCONT)
        await ready.until(READY, mends=True)
        assert ready.verdict.serves

    ready.watch(story)


def test_saturated_server(ready: Node) -> None:
    """Its answers come later than the grace, so giving up on them would never hear it."""

    async def story() -> None:
        await ready.until(READY)
        ready.tell(saturate={"health_seconds": 8})
        seen, heard = set(), 0
        begin = time.monotonic()
        while not heard and time.monotonic() - begin < 60:
            look = await ready.look()
            seen.add(ready.verdict.state)
            heard += bool(look.health and look.health.ok and look.health.seconds > LIMITS.hang_grace_seconds)
            await asyncio.sleep(0.1)
        assert seen <= {READY, BUSY}
        assert BUSY in seen
        assert heard == 1

    ready.watch(story)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "[" * 100_000,
        "{}",
        '{"pid": null}',
        '{"pid": "self"}',
        '{"pid": 0}',
        '{"pid": -1}',
        '{"pid": 1e400}',
        '{"pid": 99999999999999999999}',
        '{"pid": 1}',
        '{"pid": OF_THIS_TEST}',
        "\udcff",
    ],
    ids=lambda record: repr(record)[:40],
)
def test_record_that_is_torn_or_names_a_foreign_process(node: Node, record: str) -> None:
    async def story() -> None:
        look = await node.look()
        assert (look.server, node.verdict.state) == ("", DOWN)

    record = record.replace("OF_THIS_TEST", str(os.getpid()))
    node.record.write_bytes(record.encode(errors="surrogateescape"))
    node.watch(story)


def test_why_a_server_is_not_started(node: Node) -> None:
    async def story() -> None:
        await node.look()
        assert node.verdict == Verdict(DOWN, "it cannot start: port 1 is held", restarts=2, refused=True)

    Path(node.instance.obstacle_path).write_text("port 1 is held\n")
    node.watch(story)


def test_closed_watcher_leaves_nothing_behind(ready: Node) -> None:
    async def story() -> None:
        await ready.until(READY)
        await ready.watcher.look(0, True)
        ready.watcher.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    before = len(os.listdir("/proc/self/fd"))
    ready.watch(story)
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_port_holder_is_not_taken_for_the_server(node: Node) -> None:
    """A record of an ended server, and another program on the port."""

    async def story() -> None:
        await node.look()
        assert node.verdict.state == DOWN

    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    node.record.write_text(json.dumps({"pid": ended.pid}))
    with socket.create_server(("127.0.0.1", node.instance.port)):
        node.watch(story)
