# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper: which verdict has which command follow, and what holds where one fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import keeper as keepers
from ansible_collections.inferops.vllm.plugins.module_utils._health import memory
from ansible_collections.inferops.vllm.plugins.module_utils._health.gpus import Gpus
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Keeper, Node
from ansible_collections.inferops.vllm.plugins.module_utils._health.lock import Lock
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit, Verdict
from doubles.node import Server

MakeKeeper = Callable[..., Keeper]


def verdict(state: str, server: str = "7:7", **words: Any) -> Verdict:
    return Verdict(state, f"it is {state}", server, serves=state in ("ready", "busy"), **words)


def judged(keeper: Keeper, *verdicts: Verdict) -> None:
    """A step for each verdict."""

    async def go() -> None:
        for each in verdicts:
            await keeper.take(each, time.monotonic())

    asyncio.run(go())


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        (verdict("ready"), []),
        (verdict("busy"), []),
        (verdict("loading"), []),
        (verdict("draining"), []),
        (verdict("unknown"), []),
        (verdict("down", server=""), []),
        (verdict("hung", lost=True), [("kill", "tiny")]),
        (verdict("failed", lost=True), [("kill", "tiny")]),
        (verdict("failed"), [("restart", "tiny")]),
        (verdict("failed", server=""), [("restart", "tiny")]),
    ],
)
def test_what_follows_from_a_verdict(make_keeper: MakeKeeper, runtime: Any, seen: Verdict, done: list[Any]) -> None:
    told: list[Mapping[str, Any]] = []
    keeper = make_keeper(tell=told.append)
    judged(keeper, verdict("ready"), seen, seen)
    assert runtime.done == done
    assert keeper.restarts == sum(keeper.actions.values()) == len(done)
    assert [event["event"] for event in told] == ["restart"] * len(done)


def test_recovery_is_told_once(make_keeper: MakeKeeper, runtime: Any) -> None:
    told: list[Mapping[str, Any]] = []
    keeper = make_keeper(tell=told.append)
    ready = verdict("ready", server="8:8")
    judged(keeper, verdict("ready"), verdict("hung", lost=True), verdict("loading", server="8:8"), ready, ready)
    assert [event["event"] for event in told] == ["restart", "recovered"]
    assert runtime.done == [("kill", "tiny")]


@pytest.mark.parametrize(("lost", "done"), [(True, ["kill", "stop"]), (False, ["stop"])])
def test_quarantine_stops_it_and_kills_what_would_not_leave(
    make_keeper: MakeKeeper, runtime: Any, log: Any, lost: bool, done: list[str]
) -> None:
    keeper = make_keeper(restart_budget=1, backoff_seconds=0.001, backoff_max_seconds=0.001)
    judged(keeper, verdict("ready", server="1:1"), verdict("failed", server="1:1", lost=True))
    runtime.done.clear()
    judged(keeper, verdict("failed", server="2:2", lost=lost))
    assert [verb for verb, _name in runtime.done] == done
    assert keeper.status()["state"] == "failed"
    assert keeper.status()["evidence"].startswith("quarantined: left stopped after 1 restarts: it is failed")
    assert len(log.of("quarantine")) == 1


def test_failing_command_is_logged_and_repeated_in_time(make_keeper: MakeKeeper, runtime: Any, log: Any) -> None:
    runtime.fails = True
    hung = verdict("hung", lost=True)
    keeper = make_keeper(action_timeout_seconds=0.001, backoff_seconds=0.001, backoff_max_seconds=0.001)
    judged(keeper, hung)
    time.sleep(0.005)
    judged(keeper, hung)
    assert runtime.done == [("kill", "tiny")] * 2
    errors = [fields["error"] for fields in log.of("action") if "error" in fields]
    assert errors == ["systemctl kill: no"] * 2


def test_who_has_not_the_lock_never_acts(make_keeper: MakeKeeper, runtime: Any, folder: Path, log: Any) -> None:
    other, mine = Lock(str(folder / "state")), Lock(str(folder / "state"))
    assert other.acquire()
    keeper = make_keeper(may_act=mine.acquire)
    hung = verdict("hung", lost=True)
    judged(keeper, hung, hung, hung)
    assert (runtime.done, keeper.verdict.state, log.of("action")) == ([], "hung", [])
    assert not (folder / "state" / "tiny.json").exists()
    other.release()
    judged(keeper, hung)
    assert runtime.done == [("kill", "tiny")]
    mine.release()


def test_state_is_saved_before_the_action(make_keeper: MakeKeeper, runtime: Any, folder: Path) -> None:
    path = folder / "state" / "tiny.json"
    seen: list[Any] = []
    kill = runtime.kill

    async def noting(name: str) -> None:
        seen.append(json.loads(path.read_text())["memory"]["acted"])
        await kill(name)

    runtime.kill = noting
    judged(make_keeper(), verdict("hung", lost=True))
    assert seen == ["kill"]


def test_another_program_goes_on_where_one_ended(make_keeper: MakeKeeper, runtime: Any) -> None:
    hung = verdict("hung", lost=True)
    judged(make_keeper(), hung)
    again = make_keeper()
    judged(again, hung)
    assert runtime.done == [("kill", "tiny")]
    assert again._memory.restarts


def test_state_that_cannot_be_saved_is_told_once_and_stops_nothing(
    make_keeper: MakeKeeper, runtime: Any, log: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    keeper = make_keeper()
    with monkeypatch.context() as patched:
        patched.setattr(memory, "save", full)
        hung = verdict("hung", lost=True)
        judged(keeper, verdict("ready"), hung, hung, verdict("ready", server="8:8"))
    assert runtime.done == [("kill", "tiny")]
    assert [fields["error"] for fields in log.of("memory")] == ["not saved: No space left on device"]
    # Saved as soon as there is room again, although nothing has changed since.
    judged(keeper, verdict("ready", server="8:8"))
    assert json.loads((folder / "state" / "tiny.json").read_text())["memory"]["restarts"]


def test_damaged_state_is_told_and_begun_anew(make_keeper: MakeKeeper, folder: Path, log: Any) -> None:
    (folder / "state" / "tiny.json").write_text("{")
    judged(make_keeper(), verdict("ready"))
    assert "is of no use" in log.of("memory")[0]["error"]


def test_changes_are_logged_and_ready_with_busy_is_none(make_keeper: MakeKeeper, log: Any) -> None:
    keeper = make_keeper()
    judged(keeper, *(verdict(state) for state in ("loading", "ready", "busy", "ready", "unknown", "unknown", "ready")))
    assert [(fields["before"], fields["state"]) for fields in log.of("verdict")] == [
        ("unknown", "loading"),
        ("loading", "ready"),
        ("ready", "unknown"),
        ("unknown", "ready"),
    ]


def test_late_looks_are_counted(make_keeper: MakeKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "EAGER_SECONDS", 0.1)
    keeper = make_keeper(look_seconds=0.1)

    async def go() -> int:
        task = asyncio.get_running_loop().create_task(keeper.run())
        await asyncio.sleep(0.25)
        before = keeper.late_looks
        time.sleep(0.5)  # what holds the loop up is what is tested
        await asyncio.sleep(0.25)
        task.cancel()
        return keeper.late_looks - before

    assert asyncio.run(go()) == 1
    assert keeper.looks >= 4


# A simulated server


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    started = Server(folder / "config", "tiny")
    yield started
    started.end()


def kept(server: Server, node: Node, log: Any, go: Callable[[Keeper], Coroutine[Any, Any, None]]) -> Keeper:
    """The keeper of a simulated server, at work until `go` has ended."""
    limits = Settings(look_seconds=0.2, hang_grace_seconds=1.0, idle_probe_seconds=0.5)
    keeper = Keeper(server.instance, limits, node, log, lambda _event: None, lambda: True, Gpus(dict, log))

    async def run() -> None:
        task = asyncio.get_running_loop().create_task(keeper.run())
        try:
            await asyncio.wait_for(go(keeper), 60)
        finally:
            task.cancel()
            keeper.close()

    asyncio.run(run())
    return keeper


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_server_that_dies_is_noticed_at_once(server: Server, node: Node, runtime: Any, log: Any) -> None:
    server.start()
    noticed = 0.0

    async def go(keeper: Keeper) -> None:
        nonlocal noticed
        await until(lambda: keeper.ready)
        keeper._settings = Settings(look_seconds=60)
        await asyncio.sleep(0.5)
        os.kill(server.tell()["engine_pid"], signal.SIGKILL)
        began = time.monotonic()
        await until(lambda: runtime.done)
        noticed = time.monotonic() - began

    kept(server, node, log, go)
    assert runtime.done == [("kill", "tiny")]
    assert noticed < 5


def test_a_server_that_has_loaded_is_asked_for_a_token_at_once(
    server: Server, node: Node, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "EAGER_SECONDS", 100)
    server.start()
    server.await_load()

    async def go(keeper: Keeper) -> None:
        await until(lambda: keeper.ready)

    kept(server, node, log, go)


def test_a_hung_server_is_killed_once(server: Server, node: Node, runtime: Any, log: Any) -> None:
    server.start()

    async def go(keeper: Keeper) -> None:
        await until(lambda: keeper.ready)
        await asyncio.to_thread(server.tell, hang=True)
        await until(lambda: runtime.done)
        await asyncio.sleep(1)

    keeper = kept(server, node, log, go)
    assert runtime.done == [("kill", "tiny")]
    assert keeper.verdict.state == "hung"


def test_a_stopped_instance_is_left_alone(server: Server, node: Node, runtime: Any, log: Any) -> None:
    runtime.unit = Unit("stopped")

    async def go(keeper: Keeper) -> None:
        await until(lambda: keeper.looks > 3)

    assert kept(server, node, log, go).verdict.state == "down"
    assert runtime.done == []
