# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtimes tmux and screen: who keeps an instance, what cron starts, and the log of a terminal's session."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import keep, process, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.process import Stat
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed, Session

START = "@reboot root /opt/vllm/bin/vllm-instance start"


class Node:
    """Keepers by their pids, each with the name of its parent; commands that were run; signals that were sent."""

    def __init__(self) -> None:
        self.keepers: dict[int, tuple[str, str]] = {}
        self.ran: list[tuple[str, ...]] = []
        self.sent: list[tuple[int, int]] = []


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()

    async def run(*command: str) -> str:
        made.ran.append(command)
        return ""

    def stat(pid: int) -> Stat | None:
        if pid in made.keepers:
            return Stat("python3", "S", 1, 0.0, pid + 1000)
        return Stat(made.keepers[pid - 1000][1], "S", 1, 0.0, 1) if pid - 1000 in made.keepers else None

    def kill(pid: int, number: int) -> None:
        made.sent.append((pid, number))
        if number == signal.SIGTERM:
            del made.keepers[pid]

    def load(name: str) -> Instance:
        return Instance(name, 1, name, "vllm", "/opt/vllm")

    def commands(_verb: str) -> list[tuple[int, list[str]]]:
        return [(pid, ["x", "keep", name]) for pid, (name, _parent) in made.keepers.items()]

    monkeypatch.setattr(process, "commands", commands)
    monkeypatch.setattr(process, "stat", stat)
    monkeypatch.setattr(runtime, "run", run)
    monkeypatch.setattr(runtime.os, "kill", kill)
    monkeypatch.setattr(runtime.instances, "load", load)
    monkeypatch.setattr(Session, "CRON_DIR", str(tmp_path))
    return made


def kept(program: str) -> dict[str, bool]:
    return asyncio.run(Session(program).kept())


@pytest.mark.parametrize("program", ["tmux", "screen"])
def test_keeps_once_and_at_boot_and_drops(node: Node, tmp_path: Path, program: str) -> None:
    session = Session(program, str(tmp_path))
    asyncio.run(session.keep("a.b"))
    asyncio.run(session.keep("c"))
    assert [command[0] for command in node.ran] == [program, program]
    assert node.ran[0][-3:] == ("/opt/vllm/bin/vllm-instance", "keep", "a.b")
    lines = (tmp_path / f"vllm-{program}").read_text().splitlines()
    assert lines[2:] == [f"{START} a.b", f"{START} c"]
    assert kept(program) == {"a.b": True, "c": True}
    node.keepers[7] = ("c", f"{program}: server")
    asyncio.run(session.keep("c"))
    assert len(node.ran) == 2
    asyncio.run(session.drop("a.b", 1))
    asyncio.run(session.drop("c", 1))
    assert (kept(program), list(tmp_path.iterdir())) == ({}, [])
    # A stopped process takes no other signal.
    assert node.sent == [(7, signal.SIGTERM), (7, signal.SIGCONT)]


def test_keepers_of_another_multiplexer_are_another_runtime_s(node: Node) -> None:
    node.keepers[7] = ("a", "tmux: server")
    node.keepers[8] = ("b", "SCREEN")
    assert (kept("tmux"), kept("screen")) == ({"a": False}, {"b": False})
    units = asyncio.run(Session("tmux").units(["a", "b"]))
    assert (units["a"].state, units["b"].state) == ("starting", "stopped")


def test_restart_is_a_signal_and_never_a_session_of_the_agent_s_own(node: Node) -> None:
    with pytest.raises(CommandFailed, match="instance a has no session: start it with vllm-instance start a"):
        asyncio.run(Session("tmux").restart("a"))
    node.keepers[7] = ("a", "tmux: server")
    asyncio.run(Session("tmux").restart("a"))
    assert node.sent == [(7, signal.SIGUSR1), (7, signal.SIGCONT)]


def test_what_does_not_stop_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.keepers[7] = ("a", "screen")
    monkeypatch.setattr(runtime.os, "kill", lambda _pid, _number: None)
    with pytest.raises(CommandFailed, match=r"instance a has not stopped within 0\.3 s"):
        asyncio.run(Session("screen").halt("a", 0.3))


def test_log_is_put_aside_when_it_is_full(tmp_path: Path) -> None:
    log = keep.Log(str(tmp_path / "tiny.log"), 10)
    for number in range(30):
        log.write(b"%010d" % number)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"tiny.log.{n}" for n in range(1, 11))
    assert (tmp_path / "tiny.log.1").read_bytes() == b"0000000029"
    assert os.stat(tmp_path / "tiny.log.1").st_mode & 0o777 == 0o640


def test_disk_without_space_keeps_no_server_from_its_work(tmp_path: Path) -> None:
    keep.Log(str(tmp_path / "missing/tiny.log")).write(b"words")
