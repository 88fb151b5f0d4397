# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_recover sees, does, and leaves alone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from ansible_collections.inferops.vllm.plugins.modules import vllm_recover
from doubles.node import Runtime, Server


class Keeping(Runtime):
    """A runtime that notes what it is told."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self.told: list[str] = []
        self.written = "Authorization: Bearer abcd-efgh\nthe end"

    async def keep(self, _name: str) -> None:
        self.told.append("keep")

    async def renew(self, _name: str, _timeout_seconds: float) -> None:
        self.told.append("renew")

    async def kill(self, _name: str) -> None:
        self.told.append("kill")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, f"tiny-{os.getpid()}")
    yield made
    made.end()


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Keeping:
    made = Keeping(Unit("stopped"))
    monkeypatch.setattr(vllm_recover.runtime, "of", lambda _instance: made)
    monkeypatch.setattr(vllm_recover.runtime, "named", lambda _name: made)
    return made


@pytest.fixture
def recover(call: Any, tmp_path: Path) -> Any:
    return lambda check=False, **arguments: call(
        vllm_recover, check, **{"config_dir": str(tmp_path), "timeout_seconds": 5, **arguments}
    )


@contextlib.contextmanager
def process_of(name: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], env={**os.environ, process.MARK: name}) as made:
        yield made
        made.kill()


def test_starts_what_is_stopped(recover: Any, keeping: Keeping, server: Server) -> None:
    name = server.instance.name
    foretold = recover(check=True)
    assert (foretold["changed_instances"], keeping.told) == ([name], [])
    result = recover()
    assert (result["changed"], keeping.told) == (True, ["keep"])
    assert result["instances"][name]["step"] == "start"
    assert result["instances"][name]["log"] == ["Authorization: Bearer ********", "the end"]
    assert f"{name}: start, for it is stopped" in result["report"]
    assert result["node"]["memory_available_mib"] > 0


def test_leaves_alone_what_serves(recover: Any, keeping: Keeping, server: Server) -> None:
    keeping.unit = Unit("running")
    server.start()
    for _attempt in range(20):
        result = recover()
        if result["instances"][server.instance.name]["state"] == "ready":
            break
    assert result["instances"][server.instance.name]["state"] == "ready"
    assert (result["changed"], keeping.told) == (False, [])


def test_kills_its_own_leftovers_alone(recover: Any, keeping: Keeping, server: Server) -> None:
    name = server.instance.name
    with process_of(name) as own, process_of(f"{name}0") as other:
        assert recover(check=True)["instances"][name]["why"] == "its servers have left sleep"
        assert own.poll() is None
        assert recover()["instances"][name]["step"] == "kill leftovers"
        assert own.wait(10) == -9
        assert other.poll() is None
    assert keeping.told == ["keep"]


def test_names_who_has_the_port(recover: Any, keeping: Keeping, server: Server) -> None:
    with socket.create_server(("127.0.0.1", server.instance.port)):
        result = recover()
    found = result["instances"][server.instance.name]
    assert found["step"] == "nothing"
    assert f"(pid {os.getpid()}), which is not touched" in found["hindrance"]
    assert (result["changed"], keeping.told) == (False, [])


def test_unknown_name(recover: Any) -> None:
    assert recover(names=["other"])["msg"].startswith("names has other, and the instances of this node are none")
