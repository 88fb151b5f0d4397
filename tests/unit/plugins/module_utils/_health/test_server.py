# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one port: whatever comes is answered or dropped, and nobody keeps a connection for longer than its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._health import drain, server
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Keeper
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Verdict

READY = Verdict("ready", "answers", "7:7", serves=True)
HUNG = Verdict("hung", "no engine step for 20 s", "7:7", lost=True)
MakeKeeper = Callable[..., Keeper]
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


@pytest.fixture
def keepers(make_keeper: MakeKeeper) -> dict[str, Keeper]:
    """One instance that is ready, one that is hung, one that is drained."""
    found = {name: make_keeper(name) for name in ("good", "bad", "drained")}
    for keeper in found.values():
        keeper.verdict = READY
    found["bad"].verdict = HUNG
    drain.set_flag("drained", "a test", found["drained"]._drain_dir)
    return found


def talk(keepers: dict[str, Keeper], client: Client) -> bytes:
    """What a client gets of a server that answers for the keepers."""

    async def run() -> bytes:
        listening = await asyncio.get_running_loop().create_server(lambda: server.Question(keepers), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        try:
            return await client(reader, writer)
        finally:
            writer.close()
            listening.close()

    return asyncio.run(asyncio.wait_for(run(), 20))


def ask(keepers: dict[str, Keeper], *parts: bytes, end: bool = False) -> bytes:
    """The answer to a question that is sent in these parts; with an end of what is sent, or without."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(0.01)
            writer.write(part)
        if end:
            with contextlib.suppress(OSError):  # it has been answered and closed before
                writer.write_eof()
        try:
            return await reader.read()
        except ConnectionError:
            return b""

    return talk(keepers, client)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"good\n", b"ready up 100%\n"),
        (b"good\r\n", b"ready up 100%\n"),
        (b"good open\n", b"ready up\n"),
        (b"bad\n", b"down #hung\n"),
        # Asked for where no server is ready: then the server's own /health decides.
        (b"bad open\n", b"ready up\n"),
        (b"drained\n", b"drain\n"),
        (b"drained open\n", b"drain\n"),
        (b"nobody\n", b"down #unknown instance\n"),
        (b"nobody open\n", b"down #unknown instance\n"),
        (b"good closed\n", b"ready up 100%\n"),
        (b"\n", b"down #unknown instance\n"),
        (b"\xff\xfe\0\n", b"down #unknown instance\n"),
    ],
)
def test_agent_check(keepers: dict[str, Keeper], line: bytes, answer: bytes) -> None:
    assert ask(keepers, line) == answer
    assert ask(keepers, *(bytes([byte]) for byte in line)) == answer


@pytest.mark.parametrize(
    ("target", "status", "shown"),
    [
        ("/ready/good", 200, {"instance": "good", "state": "ready", "ready": True, "draining": False}),
        ("/ready/good?from=alb", 200, {"instance": "good"}),
        ("/ready/bad", 503, {"state": "hung", "evidence": "no engine step for 20 s", "ready": False}),
        ("/ready/drained", 503, {"state": "draining", "ready": False, "draining": True}),
        ("/ready/nobody", 404, {"error": "no such instance on this node"}),
        ("/ready/", 404, {}),
    ],
)
def test_ready(keepers: dict[str, Keeper], target: str, status: int, shown: dict[str, object]) -> None:
    head, _blank, body = ask(keepers, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    found = json.loads(body)
    assert {word: found[word] for word in shown} == shown


def test_a_quarantine_is_told(keepers: dict[str, Keeper]) -> None:
    keeper = keepers["bad"]
    keeper._memory = keeper._memory.__class__(quarantine="left stopped after 5 restarts: it hangs")
    status, _kind, body = server.respond("/ready/bad", keepers)
    assert (status, json.loads(body)["state"]) == (503, "failed")
    assert "left stopped after 5 restarts" in body


def test_drain_flag_counts_at_once(keepers: dict[str, Keeper], folder: Path) -> None:
    flag = folder / "drain" / "good"
    for _round in range(2):
        flag.write_text("")
        assert server.respond("/ready/good", keepers)[0] == 503
        flag.unlink()
        assert server.respond("/ready/good", keepers)[0] == 200


def test_head_has_no_body(keepers: dict[str, Keeper]) -> None:
    answer = ask(keepers, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_other_paths_and_verbs(keepers: dict[str, Keeper]) -> None:
    status = json.loads(ask(keepers, b"GET /status HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2])
    assert [found["instance"] for found in status["instances"]] == ["good", "bad", "drained"]
    assert b"vllm_agent_ready" in ask(keepers, b"GET /metrics HTTP/1.1\n\n")
    assert ask(keepers, b"GET /healthz HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n").endswith(b"\r\n\r\nok\n")
    assert ask(keepers, b"GET /elsewhere HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert ask(keepers, b"GET \r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert ask(keepers, b"POST /ready/good HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").startswith(b"HTTP/1.1 405 ")


@given(st.lists(st.binary(max_size=200), max_size=4))
@example([b"GET", b" /ready/good HTTP/1.1\r", b"\n\r\n"])
@example([b"GET /ready/%00%ff HTTP/1.1\r\n\r\n"])
@example([b"GET /ready/../../etc HTTP/1.1\r\n\r\n"])
@example([b"HEAD\n", b"\n\n"])
@examples(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_gets_an_answer_or_none(keepers: dict[str, Keeper], parts: list[bytes]) -> None:
    answer = ask(keepers, *parts, end=True)
    assert not answer or answer.startswith((b"HTTP/1.1 ", b"down #", b"ready up", b"drain"))
    if b"\n" not in b"".join(parts):
        assert answer == b""


def test_huge_question_is_dropped(keepers: dict[str, Keeper]) -> None:
    assert ask(keepers, b"x" * 100_000) == b""
    assert ask(keepers, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000) == b""


@pytest.mark.parametrize("drip", [b"", b"GET /ready/good HTTP/1.1\r\nX: ", b"goo"])
def test_nobody_keeps_a_connection(keepers: dict[str, Keeper], monkeypatch: pytest.MonkeyPatch, drip: bytes) -> None:
    monkeypatch.setattr(server, "QUESTION_SECONDS", 0.3)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        ended = asyncio.ensure_future(reader.read())
        writer.write(drip)
        while not ended.done():
            if drip:
                writer.write(b"x")
            await asyncio.sleep(0.02)
        return b"" if ended.exception() else ended.result()

    began = time.monotonic()
    assert talk(keepers, client) == b""
    assert 0.2 < time.monotonic() - began < 5


def test_who_does_not_read_its_answer_keeps_no_connection(
    keepers: dict[str, Keeper], make_keeper: MakeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "QUESTION_SECONDS", 0.5)
    keepers.update({f"n{number}": make_keeper(f"n{number}") for number in range(3000)})
    transports: list[asyncio.BaseTransport] = []
    made = server.Question.connection_made

    def noted(question: server.Question, transport: asyncio.BaseTransport) -> None:
        transports.append(transport)
        made(question, transport)

    monkeypatch.setattr(server.Question, "connection_made", noted)

    async def client(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await asyncio.sleep(1.5)
        sock = transports[0].get_extra_info("socket")
        return b"closed" if sock is None or sock.fileno() < 0 else b"open"

    assert talk(keepers, client) == b"closed"
