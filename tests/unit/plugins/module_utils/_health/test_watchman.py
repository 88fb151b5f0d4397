# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchman: lets a fresh agent be, restarts a dead, deaf or stale one, and stands in where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import agent, keeper, watchman
from ansible_collections.inferops.vllm.plugins.module_utils._health.lock import Lock
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from doubles.node import Server

FRESH = json.dumps({"instances": [{"instance": "tiny", "look_age_seconds": 1.2}]}).encode()
STALE = json.dumps({"instances": [{"instance": "tiny", "look_age_seconds": 99}]}).encode()
NOT_OURS = b'{"some": "page"}'
DEAF = None


class Node:
    """An agent's port, systemd, and a stand-in that only notes that it was called."""

    def __init__(self) -> None:
        self.answer: bytes | None = FRESH
        self.after_restart: bytes | None = FRESH
        self.unit_file = "enabled"
        self.commands: list[str] = []
        self.failing = ""
        self.stood_in = 0

    async def run(self, *command: str, **_words: Any) -> str:
        self.commands.append(" ".join(command[1:]))
        if self.failing and command[1] == self.failing:
            raise CommandFailed(f"systemctl {self.failing}: no")
        if command[1] == "show":
            return f"{self.unit_file}\n"
        if command[1] == "restart":
            self.answer = self.after_restart
        return ""

    async def stand_in(self, _agent: agent.Agent, _seconds: float) -> None:
        self.stood_in += 1

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self.answer is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.answer) + self.answer)
            writer.close()
        else:
            await reader.read()
            writer.close()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, log: Any) -> Node:
    fake = Node()

    async def stand_in(standing: agent.Agent, seconds: float) -> None:
        await fake.stand_in(standing, seconds)

    monkeypatch.setattr(watchman.runtime, "run", fake.run)
    monkeypatch.setattr(watchman, "service", watchman.SystemdService)
    monkeypatch.setattr(watchman.Agent, "stand_in", stand_in)
    monkeypatch.setattr(watchman, "log", log)
    monkeypatch.setattr(watchman, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(watchman, "SECOND_THOUGHT_SECONDS", 0.1)
    monkeypatch.setattr(watchman, "RESTART_SECONDS", 1.2)
    return fake


def place(folder: Path, runtime: Any) -> keeper.Node:
    return keeper.Node(lambda _instance: runtime, *(str(folder / name) for name in ("config", "state", "drain")))


def check(node: Node, folder: Path, listening: bool = True, **settings: Any) -> None:
    async def go() -> None:
        server = await asyncio.start_server(node.take, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if not listening:
            server.close()
        await watchman.check(Settings(agent_port=port, **settings), place(folder, None), 1)
        server.close()

    asyncio.run(asyncio.wait_for(go(), 20))


def test_fresh_agent_is_let_be(node: Node, folder: Path, log: Any) -> None:
    check(node, folder)
    assert (node.commands, node.stood_in, log) == ([], 0, [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (STALE, "has not looked at tiny for more than 30 s"),
        (DEAF, "/status: no answer within 0.3 s"),
        (NOT_OURS, "another program answers on its port"),
        (b"[]", "another program answers on its port"),
        (b"hello", "another program answers on its port"),
        (b'{"instances": [{"instance": "x", "look_age_seconds": "old"}]}', "another program answers on its port"),
    ],
)
def test_agent_in_trouble_is_killed_and_started(
    node: Node, folder: Path, log: Any, answer: bytes | None, reason: str
) -> None:
    node.answer = answer
    check(node, folder)
    assert [command.split()[0] for command in node.commands] == ["show", "kill", "reset-failed", "restart"]
    assert "--signal=SIGKILL" in node.commands[1]
    assert log == [{"event": "agent", "action": "restart", "reason": reason}]
    assert node.stood_in == 0


def test_dead_agent_that_does_not_come_back_is_stood_in_for(node: Node, folder: Path) -> None:
    check(node, folder, listening=False)
    assert node.commands[-1].startswith("restart --no-block")
    assert node.stood_in == 1


def test_agent_that_is_just_being_started_is_let_be(node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node.answer = DEAF
    sleep = asyncio.sleep

    async def meanwhile(seconds: float) -> None:
        node.answer = FRESH
        await sleep(seconds)

    monkeypatch.setattr(watchman.asyncio, "sleep", meanwhile)
    check(node, folder)
    assert (node.commands, node.stood_in) == ([], 0)


def test_nothing_to_kill_is_no_obstacle(node: Node, folder: Path) -> None:
    node.answer, node.failing = DEAF, "kill"
    check(node, folder)
    assert node.commands[-1].startswith("restart")
    assert node.stood_in == 0


@pytest.mark.parametrize("failing", ["show", "restart"])
def test_agent_that_cannot_be_restarted_is_stood_in_for(node: Node, folder: Path, log: Any, failing: str) -> None:
    node.answer, node.failing = DEAF, failing
    check(node, folder)
    assert log[-1] == {"event": "agent", "error": f"systemctl {failing}: no"}
    assert node.stood_in == 1


@pytest.mark.parametrize("unit_file", ["disabled", "masked", "masked-runtime", "not-found", ""])
def test_agent_that_somebody_switched_off_stays_off(node: Node, folder: Path, unit_file: str) -> None:
    node.unit_file = unit_file
    check(node, folder, listening=False)
    assert [command.split()[0] for command in node.commands] == ["show"]
    assert node.stood_in == 1


def test_agent_that_is_not_wanted_is_not_asked(node: Node, folder: Path) -> None:
    check(node, folder, agent_enabled=False)
    assert (node.commands, node.stood_in) == ([], 1)


def test_never_two_that_heal(node: Node, folder: Path) -> None:
    other = Lock(str(folder / "state"))
    assert other.acquire()
    check(node, folder, agent_enabled=False)
    assert node.stood_in == 0
    other.release()
    check(node, folder, agent_enabled=False)
    assert node.stood_in == 1


def test_wrong_settings_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "health.json"
    path.write_text('{"agent_port": 0}')
    load = watchman.settings.load
    monkeypatch.setattr(watchman.settings, "load", lambda: load(str(path)))
    monkeypatch.setattr("sys.argv", ["vllm-health-check"])
    with pytest.raises(SystemExit, match=r"^vllm-health-check: .*health\.json: agent_port is 0, not a port"):
        watchman.main()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    started = Server(folder / "config", "tiny")
    yield started
    started.end()


def test_stand_in_heals(server: Server, folder: Path, runtime: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "log", log)
    server.start()
    chosen = Settings(agent_enabled=False, look_seconds=0.2, hang_grace_seconds=1.0, idle_probe_seconds=0.5)
    state = str(folder / "state")

    async def go() -> None:
        stand_in = agent.Agent(chosen, place(folder, runtime))
        task = asyncio.get_running_loop().create_task(stand_in.stand_in(30))
        while not stand_in.keepers or not stand_in.keepers["tiny"].ready:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(server.tell, hang=True)
        while not runtime.done:
            await asyncio.sleep(0.05)
        assert not Lock(state).acquire()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await stand_in.close()
        assert Lock(state).acquire()

    asyncio.run(asyncio.wait_for(go(), 30))
    assert runtime.done == [("kill", "tiny")]
