# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: follows the instances of its node, and outlives whatever is wrong with one of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import agent as agents
from ansible_collections.inferops.vllm.plugins.module_utils._health import keeper as keepers
from ansible_collections.inferops.vllm.plugins.module_utils._health.agent import Agent
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Node
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving import client
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(autouse=True)
def surroundings(folder: Path, log: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The agent's settings and log in this test's folder."""
    monkeypatch.setattr(agents, "log", log)
    monkeypatch.setattr(agents, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(agents.settings, "PATH", str(folder / "health.json"))
    yield
    # asyncio leaves these as they were set for its loop.
    signal.set_wakeup_fd(-1)


@pytest.fixture
def describe(folder: Path) -> Callable[..., Instance]:
    """describe(name, **changes) writes the description of an instance."""

    def write(name: str, **changes: Any) -> Instance:
        config = str(folder / "config")
        instance = Instance(
            name=name,
            port=8000,
            served_model_name="m",
            user="vllm",
            root="/o",
            config_dir=config,
            run_dir=str(folder / "run"),
        )
        instance = replace(instance, **changes)
        Path(instance.description_path).write_text(instance.dump())
        return instance

    return write


@pytest.fixture
def make_agent(node: Node) -> Callable[..., Agent]:
    def make(**settings: Any) -> Agent:
        return Agent(Settings(look_seconds=0.05, agent_address="127.0.0.1", **settings), node)

    return make


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)


def test_instances_come_go_and_change(make_agent: Any, describe: Any, folder: Path) -> None:
    async def go() -> None:
        agent = make_agent()
        agent.rescan()
        assert agent.keepers == {}
        first, second = describe("first"), describe("second")
        agent.rescan()
        kept = dict(agent.keepers)
        assert {name: keeper.instance for name, keeper in kept.items()} == {"first": first, "second": second}
        describe("second", port=8001)
        (folder / "config" / "first.json").unlink()
        agent.rescan()
        assert list(agent.keepers) == ["second"]
        assert agent.keepers["second"] is not kept["second"]
        assert agent.keepers["second"].instance.port == 8001
        before = agent.keepers["second"]
        agent.rescan()
        assert agent.keepers["second"] is before
        await agent.close()
        assert agent.keepers == {}

    asyncio.run(go())


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "bad"}', '{"unknown": 1}', "\udcff", "null"])
def test_damaged_description_harms_nobody_and_is_told_once(
    make_agent: Any, describe: Any, folder: Path, log: Any, damage: str
) -> None:
    async def go() -> None:
        agent = make_agent()
        describe("good")
        (folder / "config" / "bad.json").write_bytes(damage.encode(errors="surrogateescape"))
        for _round in range(3):
            agent.rescan()
        assert list(agent.keepers) == ["good"]
        # One that was whole before is kept by what it said.
        (folder / "config" / "good.json").write_bytes(damage.encode(errors="surrogateescape"))
        agent.rescan()
        assert list(agent.keepers) == ["good"]
        describe("bad")
        agent.rescan()
        assert sorted(agent.keepers) == ["bad", "good"]
        await agent.close()

    asyncio.run(go())
    assert [fields["instance"] for fields in log.of("description")] == ["bad", "good"]


def test_trouble_with_one_instance_is_not_the_end_of_another(
    make_agent: Any, describe: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = keepers.Keeper.step

    async def fails(keeper: keepers.Keeper) -> None:
        if keeper.instance.name == "bad":
            raise RuntimeError("a defect")
        await step(keeper)

    monkeypatch.setattr(keepers.Keeper, "step", fails)

    async def go() -> None:
        agent = make_agent()
        describe("bad")
        describe("good")
        agent.rescan()
        await until(lambda: len(log.of("error")) >= 2 and agent.keepers["good"].looks >= 2)
        await agent.close()

    asyncio.run(go())
    assert log.of("error")[0] == {"instance": "bad", "event": "error", "error": "RuntimeError: a defect"}


def test_answers_until_it_is_told_to_end(make_agent: Any, describe: Any) -> None:
    port = free_port()

    async def go() -> None:
        agent = make_agent(agent_port=port)
        describe("tiny")
        task = asyncio.get_running_loop().create_task(agent.serve())
        await until(lambda: "tiny" in agent.keepers and agent.keepers["tiny"].looks)
        answer = await client.request("127.0.0.1", port, "GET", "/status", 5)
        assert answer.json()["instances"][0]["state"] == "down"
        describe("later")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "later" in agent.keepers)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)
        assert (await client.request("127.0.0.1", port, "GET", "/healthz", 5)).refused

    asyncio.run(go())


@pytest.mark.parametrize("change", ["settings", "program"])
def test_ends_to_be_started_anew_when_its_files_change(
    make_agent: Any, log: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    program = {"agent.py": 1}
    settings = agents.sources
    monkeypatch.setattr(agents, "sources", lambda: {**settings(), **program})

    async def go() -> None:
        task = asyncio.get_running_loop().create_task(make_agent(agent_port=free_port()).serve())
        await asyncio.sleep(0.3)
        assert not task.done()
        if change == "settings":
            (folder / "health.json").write_text("{}")
        else:
            program["agent.py"] = 2
        await asyncio.wait_for(task, 10)

    asyncio.run(go())
    assert log.of("agent") == [
        {"event": "agent", "action": "restart", "reason": "its program or its settings have changed"}
    ]


def test_files_that_are_still_changing_are_waited_for(make_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 3}, {"a": 3}, {"a": 1}, {"a": 1}])
    monkeypatch.setattr(agents, "sources", lambda: next(states))
    agent = make_agent()
    assert [agent._outdated() for _look in range(6)] == [False, False, False, True, False, False]


def test_its_own_files_are_among_its_sources() -> None:
    names = {os.path.basename(path) for path in agents.sources()}
    assert {"agent.py", "keeper.py", "verdict.py"} <= names


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "vllm-node-agent: cannot listen on 127.0.0.1:{port}: Address already in use; choose another "),
        ({"agent_address": "192.0.2.1"}, "vllm-node-agent: cannot listen on 192.0.2.1:{port}: Cannot assign requested"),
        ({"look_seconds": -1}, "vllm-node-agent: {path}: look_seconds is -1, not a number of seconds"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sentence: str
) -> None:
    path = folder / "health.json"
    load = agents.settings.load
    monkeypatch.setattr(agents.settings, "load", lambda: load(str(path)))
    monkeypatch.setattr("sys.argv", ["vllm-node-agent"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(json.dumps({"agent_address": "127.0.0.1", "agent_port": port, **settings}))
        with pytest.raises(SystemExit) as ended:
            agents.main()
    assert str(ended.value).startswith(sentence.format(port=port, path=path))
    assert "\n" not in str(ended.value)


def test_systemd_is_told_as_long_as_all_are_looked_at(
    make_agent: Any, describe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(folder / "notify"))
    listener.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))

    async def go() -> None:
        agent = make_agent(agent_port=free_port())
        describe("tiny")
        task = asyncio.get_running_loop().create_task(agent.serve())
        assert await asyncio.to_thread(listener.recv, 100) == b"READY=1"
        assert await asyncio.to_thread(listener.recv, 100) == b"WATCHDOG=1"
        monkeypatch.setattr(keepers.Keeper, "step", lambda _keeper: asyncio.sleep(60))
        agent.keepers["tiny"].looked_at -= 1000
        assert not agent.fresh
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)

    asyncio.run(go())
    listener.close()


def test_log_is_json_and_a_broken_pipe_stops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    agents.log(instance="tiny", event="verdict", evidence='a "quote"\nand more')
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["evidence"] == 'a "quote"\nand more'

    class Full:
        def write(self, _text: str) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    agents.log(event="verdict")
