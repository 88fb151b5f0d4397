# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent answers, on one port: HTTP, and the agent-check of HAProxy.

A connection is one question. `GET /ready/<instance>` is for load balancers, and an instance's name on a line of its own
is HAProxy's `agent-send`; with ` open` behind it, of a server that is asked for where no server is ready.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from . import exposition
from .keeper import Keeper

MAX_QUESTION_BYTES = 8192
QUESTION_SECONDS = 5
METHODS = (b"GET ", b"HEAD ")
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

Response = tuple[int, str, str]


class Question(asyncio.Protocol):
    """One connection: a question, its answer, the end."""

    def __init__(self, keepers: Mapping[str, Keeper]) -> None:
        self._keepers = keepers
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._limit = asyncio.get_running_loop().call_later(QUESTION_SECONDS, self._transport.abort)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._limit.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._received += data
        if self._is_whole():
            self._transport.write(self._answer())
            self._transport.close()
        elif len(self._received) > MAX_QUESTION_BYTES:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def _is_whole(self) -> bool:
        """A request is read to its end: closing on what is unread would take the answer away with it."""
        if self._received.startswith(METHODS):
            return b"\r\n\r\n" in self._received or b"\n\n" in self._received
        return b"\n" in self._received

    def _answer(self) -> bytes:
        line = self._received.partition(b"\n")[0].decode("latin-1").strip()
        words = line.split()
        if self._received.startswith(METHODS):
            return _http(*respond(words[1] if len(words) > 1 else "", self._keepers), bodiless=words[0] == "HEAD")
        if line.endswith(("HTTP/1.1", "HTTP/1.0")):
            return _http(405, TEXT, "only GET is answered\n")
        return f"{agent_check(words, self._keepers)}\n".encode()


def agent_check(words: list[str], keepers: Mapping[str, Keeper]) -> str:
    """The answer to HAProxy's agent-check, in its words."""
    keeper = keepers.get(words[0]) if words else None
    if keeper is None:
        return "down #unknown instance"
    if keeper.draining:
        return "drain"
    # Where nobody is ready, the server's own /health decides.
    if words[1:] == ["open"]:
        return "ready up"
    return "ready up 100%" if keeper.ready else f"down #{keeper.status()['state']}"


def respond(target: str, keepers: Mapping[str, Keeper]) -> Response:
    """Status, content type and body for the target of a GET."""
    path = target.partition("?")[0]
    if path.startswith("/ready/"):
        return _ready(keepers.get(path[len("/ready/") :]))
    if path == "/metrics":
        return 200, exposition.CONTENT_TYPE, exposition.page(keepers.values())
    if path == "/status":
        return 200, JSON, _line({"instances": [keeper.status() for keeper in keepers.values()]})
    if path == "/healthz":
        return 200, TEXT, "ok\n"
    return 404, TEXT, "there are /ready/<instance>, /metrics, /status and /healthz\n"


def _ready(keeper: Keeper | None) -> Response:
    if keeper is None:
        return 404, JSON, _line({"error": "no such instance on this node"})
    status = keeper.status()
    shown = {key: status[key] for key in ("instance", "state", "evidence", "ready", "draining")}
    return (200 if status["ready"] else 503), JSON, _line(shown)


def _line(value: Any) -> str:
    return json.dumps(value) + "\n"


def _http(status: int, content_type: str, body: str, bodiless: bool = False) -> bytes:
    content = body.encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if bodiless else content)
