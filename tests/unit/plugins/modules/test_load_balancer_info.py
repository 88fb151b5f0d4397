# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What load_balancer_info makes of the words of a HAProxy, which is a socket that says what HAProxy 3.0 has said."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils import _haproxy
from ansible_collections.inferops.vllm.plugins.modules import load_balancer_info

FIELDS = (
    "pxname,svname,scur,stot,econ,eresp,status,lastchg,check_status,check_code,hrsp_5xx,last_chk,last_agt,agent_status"
)


def row(service: str, server: str, status: str = "UP", agent: str = "") -> str:
    check = "L7OK,200" if status == "UP" else "L7STS,503"
    return f'{service},{server},3,4711,2,1,{status},86400,{check},5,"Said, in short",{agent},* L7OK'


class HAProxy:
    """Answers each question with its `rows`, which a test may exchange."""

    def __init__(self, path: str) -> None:
        self.rows: list[str] = []
        self.head = f"# {FIELDS}"
        self.questions: list[str] = []
        self.asked: Callable[[], None] = lambda: None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _address = self._listener.accept()
            with connection:
                question = connection.recv(1000).decode()
                if not question:
                    return
                self.questions.append(question)
                self.asked()
                # In two parts, as long answers come.
                answer = "\n".join([self.head, *self.rows, "", ""]).encode()
                connection.sendall(answer[:40])
                connection.sendall(answer[40:])

    def close(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            connection.shutdown(socket.SHUT_WR)
            self._thread.join()
        self._listener.close()


@pytest.fixture
def path() -> Iterator[str]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/admin.sock"


@pytest.fixture
def haproxy(path: str) -> Iterator[HAProxy]:
    made = HAProxy(path)
    made.rows = [
        row("tiny", "node1"),
        row("tiny", "node2", "DRAIN (agent)"),
        row("tiny", "_node1_open"),
        row("_tiny_open", "node1"),
        row("second.one", "node1", "DOWN (agent)", "ready: loading"),
    ]
    yield made
    made.close(path)


@pytest.fixture
def ask(call: Any, path: str) -> Callable[..., dict[str, Any]]:
    return lambda **arguments: call(load_balancer_info, **{"socket_path": path, "timeout_seconds": 0, **arguments})


def test_each_server_without_the_helpers(haproxy: HAProxy, ask: Any) -> None:
    result = ask()
    assert not result["changed"]
    assert result["services"] == {
        "tiny": {
            "node1": {
                "state": "up",
                "up": True,
                "status_text": "UP, check L7OK 200 Said, in short, agent L7OK",
                "sessions": 3,
                "sessions_total": 4711,
                "last_change_seconds": 86400,
                "hrsp_5xx": 5,
                "econ": 2,
                "eresp": 1,
            },
            "node2": {
                **result["services"]["tiny"]["node1"],
                "state": "drain",
                "up": False,
                "status_text": "DRAIN (agent), check L7STS 503 Said, in short, agent L7OK",
            },
        },
        "second.one": {
            "node1": {
                **result["services"]["tiny"]["node1"],
                "state": "down",
                "up": False,
                "status_text": "DOWN (agent), check L7STS 503 Said, in short, agent L7OK ready: loading",
            }
        },
    }
    assert haproxy.questions == ["show stat -1 4 -1\n"]


@pytest.mark.parametrize(
    ("status", "state", "up"),
    [
        ("UP", "up", True),
        ("UP 1/2", "up", True),
        ("DOWN", "down", False),
        ("DOWN 1/2", "down", False),
        ("DOWN (agent)", "down", False),
        ("DRAIN", "drain", False),
        ("MAINT (resolution)", "maint", False),
        ("NOLB", "nolb", False),
        ("no check", "no-check", True),
    ],
)
def test_state(status: str, state: str, up: bool) -> None:
    found = _haproxy.parse("\n".join([f"# {FIELDS}", row("a", "b", status)]))["a"]["b"]
    assert (found["state"], found["up"]) == (state, up)


def test_numbers_that_haproxy_does_not_have_are_zero() -> None:
    text = f"# {FIELDS}\na,b,0,,,,no check,,,,,,,\n"
    found = _haproxy.parse(text)["a"]["b"]
    assert (found["status_text"], found["sessions_total"], found["last_change_seconds"]) == ("no check", 0, 0)


def test_waits_until_all_are_up(haproxy: HAProxy, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_balancer_info, "PAUSE_SECONDS", 0.01)

    def asked() -> None:
        if len(haproxy.questions) == 3:
            haproxy.rows[1] = row("tiny", "node2")

    haproxy.asked = asked
    result = ask(wait_for={"tiny": ["node1", "node2"]}, timeout_seconds=60)
    assert result["services"]["tiny"]["node2"]["up"]
    assert len(haproxy.questions) == 3


@pytest.mark.usefixtures("haproxy")
def test_one_name_will_do(ask: Any) -> None:
    assert "failed" not in ask(wait_for={"tiny": "node1"})


@pytest.mark.usefixtures("haproxy")
def test_says_what_haproxy_says_of_one_that_does_not_come_up(ask: Any) -> None:
    result = ask(wait_for={"tiny": ["node1", "node2"], "second.one": "node1"})
    assert result["msg"] == (
        "after 0 s the load balancer sends no requests to 2 of the servers that must be up: node2 of tiny is"
        " DRAIN (agent), check L7STS 503 Said, in short, agent L7OK; node1 of second.one is DOWN (agent),"
        " check L7STS 503 Said, in short, agent L7OK ready: loading"
    )
    assert result["services"]["tiny"]["node1"]["up"]


@pytest.mark.parametrize(
    ("wait_for", "sentence"),
    [
        ({"huge": "node1"}, "it has no service huge, but second.one, tiny"),
        ({"tiny": ["node1", "node9"]}, "its service tiny has no server node9, but node1, node2"),
    ],
)
@pytest.mark.usefixtures("haproxy")
def test_what_cannot_come_about_is_told_at_once(ask: Any, wait_for: Any, sentence: str) -> None:
    result = ask(wait_for=wait_for, timeout_seconds=600)
    assert result["msg"] == (
        f"wait_for cannot come about, for HAProxy knows better: {sentence}. Correct it, or run the role load_balancer"
    )


def test_wrong_names_to_wait_for(ask: Any) -> None:
    result = ask(wait_for={"tiny": {"node1": True}})
    assert result["msg"] == "wait_for has tiny: {'node1': True}: write the name of a server, or a list of names"


def test_haproxy_that_comes_back_while_it_is_waited_for(path: str, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[HAProxy] = []

    def start(_seconds: float) -> None:
        pauses.append(HAProxy(path))
        pauses[0].rows = [row("tiny", "node1")]

    monkeypatch.setattr(load_balancer_info.time, "sleep", start)
    assert "failed" not in ask(wait_for={"tiny": "node1"}, timeout_seconds=60)
    pauses[0].close(path)


def test_nobody_listens(path: str, ask: Any) -> None:
    Path(path).touch()
    assert ask(timeout_seconds=600)["msg"] == (
        f"HAProxy does not answer at {path} (Connection refused): see that it runs"
    )


def test_no_socket(path: str, ask: Any) -> None:
    assert ask()["msg"] == f"HAProxy does not answer at {path} (No such file or directory): see that it runs"


def test_no_socket_where_packages_have_it(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_haproxy.os.path, "exists", lambda _path: False)
    assert ask(socket_path=None)["msg"] == (
        "HAProxy has no admin socket at /run/haproxy/admin.sock nor /var/lib/haproxy/stats: start it, or set"
        " socket_path to where its configuration has it"
    )


def test_silence(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(_haproxy.Unanswered, match=r"no answer within 0\.1 s"):
            _haproxy.ask(path, "show stat", 0.1)


def test_another_program(haproxy: HAProxy, path: str, ask: Any) -> None:
    haproxy.head, haproxy.rows = "Permission denied", []
    assert ask()["msg"] == f"what answers at {path} is not HAProxy's admin socket: 'Permission denied'"
