# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime supervisor, against a socket that speaks XML-RPC as supervisord does."""

from __future__ import annotations

import asyncio
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
import uuid
import xmlrpc.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process, supervisord
from ansible_collections.inferops.vllm.plugins.module_utils._serving.process import MARK
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed, Supervisor
from ansible_collections.inferops.vllm.plugins.module_utils._serving.supervisord import Refused, Supervisord
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit

NAME = f"tiny-{uuid.uuid4().hex[:12]}"
"""Processes are found by it on the whole host, beside those of other tests and of containers."""
PROGRAM = f"vllm@{NAME}"


class Double:
    """In place of supervisord: programs with a state each, and a note of what it was told."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.states: dict[str, str] = {}
        self.told: list[tuple[Any, ...]] = []

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        name = method.rpartition(".")[2]
        if name == "getAllProcessInfo":
            return [
                {"name": program, "statename": state, "spawnerr": "", "description": "pid 1", "pid": 1}
                for program, state in self.states.items()
            ]
        self.told.append((name, *arguments))
        if name == "reloadConfig":
            return [[[], [], []]]
        if name == "addProcessGroup" and arguments[0] in self.states:
            raise xmlrpc.client.Fault(supervisord.ALREADY_ADDED, "ALREADY_ADDED")
        if name == "addProcessGroup":
            self.states[arguments[0]] = "RUNNING"
            return True
        if arguments[0] not in self.states:
            raise xmlrpc.client.Fault(supervisord.BAD_NAME, "BAD_NAME")
        verbs = {
            "startProcess": self._start,
            "stopProcess": self._stop,
            "signalProcess": self._signal,
            "removeProcessGroup": self._remove,
        }
        return verbs[name](arguments[0])

    def _start(self, program: str) -> bool:
        if self.states[program] in supervisord.ON:
            raise xmlrpc.client.Fault(supervisord.ALREADY_STARTED, "ALREADY_STARTED")
        self.states[program] = "RUNNING"
        return True

    def _stop(self, program: str) -> bool:
        if self.states[program] not in supervisord.ON:
            if self.states[program] == "EXITED":
                self.states[program] = "RUNNING"
            raise xmlrpc.client.Fault(supervisord.NOT_RUNNING, "NOT_RUNNING")
        self.states[program] = "STOPPED"
        return True

    def _signal(self, program: str) -> bool:
        if self.states[program] not in supervisord.ON:
            raise xmlrpc.client.Fault(supervisord.NOT_RUNNING, "NOT_RUNNING")
        return True

    def _remove(self, program: str) -> bool:
        del self.states[program]
        return True


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    double: Double


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        arguments, method = xmlrpc.client.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            body = xmlrpc.client.dumps(
                (self.server.double.answer(str(method), arguments),), methodresponse=True, allow_none=True
            )
        except xmlrpc.client.Fault as fault:
            body = xmlrpc.client.dumps(fault)
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with Server(str(tmp_path / "socket"), Handler) as server:
        server.double = Double(str(tmp_path / "socket"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.double
        server.shutdown()


@pytest.fixture
def runtime(double: Double, tmp_path: Path) -> Supervisor:
    return Supervisor(Supervisord(double.path), str(tmp_path))


def unit(runtime: Supervisor) -> Unit:
    return asyncio.run(runtime.units([NAME]))[NAME]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("STOPPED", "stopped"),
        ("BACKOFF", "starting"),
        ("EXITED", "starting"),
        ("STOPPING", "stopping"),
        ("FATAL", "failed"),
        ("UNKNOWN", "failed"),
        # Its program waits for what keeps the server from its start.
        ("RUNNING", "starting"),
    ],
)
def test_states(double: Double, runtime: Supervisor, state: str, expected: str) -> None:
    double.states = {PROGRAM: state, f"{PROGRAM}2": "RUNNING"}
    assert unit(runtime).state == expected


def test_program_that_it_does_not_have_is_stopped(runtime: Supervisor) -> None:
    assert unit(runtime) == Unit("stopped")


def test_program_with_a_server_runs(double: Double, runtime: Supervisor, tmp_path: Path) -> None:
    double.states = {PROGRAM: "RUNNING"}
    (tmp_path / f"{NAME}.restarts").write_text("3")
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: NAME}) as server:
        (tmp_path / f"{NAME}.json").write_text(json.dumps({"pid": server.pid}))
        while not process.belongs_to(server.pid, NAME):
            time.sleep(0.01)
        assert unit(runtime) == Unit("running", 3, "pid 1")
        (tmp_path / f"{NAME}.stopping").touch()
        assert unit(runtime).state == "stopping"
        asyncio.run(runtime.kill(NAME))
        assert server.wait(5) == -9
    assert double.told == [("signalProcess", PROGRAM, "CONT")]


@pytest.mark.parametrize("count", ["", "x", "-5", "9" * 30])
def test_damaged_count_is_none_or_a_number(double: Double, runtime: Supervisor, tmp_path: Path, count: str) -> None:
    double.states = {PROGRAM: "RUNNING"}
    (tmp_path / f"{NAME}.restarts").write_text(count)
    assert unit(runtime).restarts >= 0


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("RUNNING", [("signalProcess", PROGRAM, "USR1")]),
        ("STOPPED", [("startProcess", PROGRAM, False)]),
        ("FATAL", [("startProcess", PROGRAM, False)]),
        ("BACKOFF", []),
        ("STOPPING", []),
    ],
)
def test_restart_never_leaves_it_stopped(
    double: Double, runtime: Supervisor, state: str, told: list[tuple[Any, ...]]
) -> None:
    double.states = {PROGRAM: state}
    asyncio.run(runtime.restart(NAME))
    assert double.told == told


@pytest.mark.parametrize("state", ["RUNNING", "EXITED", "STOPPED", "FATAL"])
def test_stop_holds_where_it_was_about_to_be_started_again(double: Double, runtime: Supervisor, state: str) -> None:
    double.states = {PROGRAM: state}
    asyncio.run(runtime.stop(NAME))
    assert double.states[PROGRAM] in supervisord.OFF


def test_keeps_renews_and_drops(double: Double, runtime: Supervisor) -> None:
    asyncio.run(runtime.keep(NAME))
    assert asyncio.run(runtime.kept()) == {NAME: True}
    double.told.clear()
    asyncio.run(runtime.renew(NAME, 5))
    assert [call[0] for call in double.told][:4] == [
        "stopProcess",
        "removeProcessGroup",
        "reloadConfig",
        "addProcessGroup",
    ]
    asyncio.run(runtime.drop(NAME, 5))
    assert (double.states, asyncio.run(runtime.kept())) == ({}, {})
    asyncio.run(runtime.drop(NAME, 5))


def test_supervisord_that_does_not_answer(tmp_path: Path) -> None:
    absent = Supervisor(Supervisord(str(tmp_path / "none")), str(tmp_path))
    with pytest.raises(CommandFailed, match=r"supervisord does not answer on .*none: .*No such file"):
        asyncio.run(absent.units([NAME]))
    assert asyncio.run(absent.kept()) == {}


@pytest.mark.usefixtures("double")
def test_refusals_are_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="supervisord refuses startProcess vllm@other False: BAD_NAME"):
        Supervisord(str(tmp_path / "socket")).start("vllm@other")


def test_log_is_the_end_of_the_file(runtime: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "LOG_DIR", str(tmp_path))
    (tmp_path / f"{NAME}.log").write_bytes(b"first\n" * 20000 + b"last \xff\nwords\n")
    assert asyncio.run(runtime.log(NAME, 2)) == "last \ufffd\nwords"
    with pytest.raises(CommandFailed, match="No such file"):
        asyncio.run(runtime.log("other", 2))


def test_tree_has_a_process_and_all_below() -> None:
    program = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        deadline = time.monotonic() + 20
        while len(found := process.Tree().under(parent.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert found[0] == parent.pid
        for pid in found[::-1]:
            os.kill(pid, 9)
