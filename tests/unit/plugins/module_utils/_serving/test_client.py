# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a server sends, a request ends in an answer, and within its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._serving import client
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
# Of a busy machine, beyond the deadline.
SLACK_SECONDS = 2.0


async def exchange(serve: Serve, timeout_seconds: float, received: list[bytes] | None = None) -> Answer:
    """Ask a server that answers one connection as told."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            head = await reader.readuntil(b"\r\n\r\n")
            if received is not None:
                received.append(head)
            await serve(writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        return await client.request("127.0.0.1", server.sockets[0].getsockname()[1], "GET", "/x", timeout_seconds)
    finally:
        server.close()


def ask(serve: Serve | bytes, timeout_seconds: float = 5) -> Answer:
    async def send(writer: asyncio.StreamWriter) -> None:
        assert isinstance(serve, bytes)
        writer.write(serve)
        await writer.drain()

    started = time.monotonic()
    answer = asyncio.run(exchange(send if isinstance(serve, bytes) else serve, timeout_seconds))
    assert time.monotonic() - started < timeout_seconds + SLACK_SECONDS
    assert answer.seconds <= time.monotonic() - started
    assert bool(answer.status) != bool(answer.error)
    return answer


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi"),
        (OK + b"Content-Length: 2\r\n\r\nhi and more", 200, b"hi"),
        (OK + b"CONTENT-LENGTH:2\r\n\r\nhi", 200, b"hi"),
        (OK + b"\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.0 200 OK\n\nplain newlines", 200, b"plain newlines"),
        (b"HTTP/1.1 204 \r\n\r\n", 204, b""),
        (b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", 503, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK + b"\r\nhi", 200, b"hi"),
        (CHUNKED + b"2\r\nhi\r\n3;name=value\r\n ho\r\n0\r\nTrailer: x\r\n\r\n", 200, b"hi ho"),
        (CHUNKED + b"0\r\n\r\n", 200, b""),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>\r\n\r\n</html>",
            502,
            b"<html>\r\n\r\n</html>",
        ),
    ],
)
def test_answers(sent: bytes, status: int, body: bytes) -> None:
    answer = ask(sent)
    assert (answer.status, answer.body, answer.error) == (status, body, "")
    assert str(answer) == f"HTTP {status}"
    assert answer.ok == (status == 200)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "EOFError: the connection ended without an answer"),
        (b"HTTP/1.1 200", "EOFError: the connection ended within the answer"),
        (OK + b"Content-Le", "EOFError: the connection ended within the answer"),
        (OK + b"Content-Length: 9\r\n\r\nhi", "IncompleteReadError"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "EOFError: the connection ended without an answer"),
        (b"<html>\r\n\r\n</html>\r\n", "NotHttp: the answer begins with b'<html>'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "NotHttp: the answer begins with b'SSH-2.0"),
        (b"HTTP/2 200\r\n\r\n", "NotHttp: the answer begins with b'HTTP/2 200'"),
        (b"HTTP/1.1 OK\r\n\r\n", "NotHttp: the answer begins with"),
        (b"HTTP/1.1 20\r\n\r\n", "NotHttp: the answer begins with"),
        (b"HTTP/1.1 000\r\n\r\n", "NotHttp: the answer begins with"),
        (b"HTTP/1.1 2000\r\n\r\n", "NotHttp: the answer begins with"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", "NotHttp: the answer begins with"),
        (OK + b"Content-Length: many\r\n\r\nhi", "NotHttp: the length is 'many'"),
        (OK + b"Content-Length: -1\r\n\r\nhi", "NotHttp: the length is '-1'"),
        (OK + b"Content-Length: 5000000\r\n\r\nhi", "NotHttp: an answer of more than 4194304 bytes"),
        (OK + b"Content-Length: " + b"9" * 9000 + b"\r\n\r\nhi", "NotHttp: the length is '999"),
        (CHUNKED + b"f" * 9000 + b"\r\nhi", "NotHttp: the length is 'fff"),
        (CHUNKED + b"2\r\nhi", "EOFError"),
        (CHUNKED + b"2\r\nhi\r\n", "EOFError"),
        (CHUNKED + b"9\r\nhi", "IncompleteReadError"),
        (CHUNKED + b"0\r\n", "EOFError"),
        (CHUNKED + b"two\r\nhi\r\n0\r\n\r\n", "NotHttp: the length is 'two'"),
        (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", "NotHttp: the length is '-2'"),
        (CHUNKED + b"\r\n\r\n", "NotHttp: the length is ''"),
        (b"HTTP/1.1 200 " + b"x" * (1 << 17), "NotHttp: a line of more than 65536 bytes"),
        (OK + b"x: " + b"y" * (1 << 17) + b"\r\n\r\n", "NotHttp: a line of more than 65536 bytes"),
        (OK + b"x: y\r\n" * 1000 + b"\r\n", "NotHttp: more than 200 headers"),
        (OK + b"\r\n" + b"x" * (client.MAX_BODY_BYTES + 1), "NotHttp: an answer of more than 4194304 bytes"),
        (CHUNKED + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 65, "NotHttp: an answer of more than 4194304 bytes"),
    ],
)
def test_what_is_no_answer_is_an_error(sent: bytes, error: str) -> None:
    answer = ask(sent)
    assert answer.status is None
    assert answer.error.startswith(error)
    assert str(answer) == answer.error


def test_the_largest_answer_in_the_smallest_chunks_blocks_nobody() -> None:
    """Others share the loop: between two turns of it there may be no second of computing."""

    async def conversation() -> float:
        async def serve(writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED)
            while True:
                writer.write(b"1\r\nx\r\n" * 10000)
                await writer.drain()

        gaps = [0.0]

        async def turn() -> None:
            last = time.thread_time()
            while True:
                await asyncio.sleep(0)
                gaps.append(time.thread_time() - last)
                last = time.thread_time()

        turning = asyncio.create_task(turn())
        await exchange(serve, 1.5)
        turning.cancel()
        return max(gaps)

    assert asyncio.run(conversation()) < 0.5


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"", b"H"),
        (OK, b"x: y\r\n"),
        (OK + b"Content-Length: 4000\r\n\r\n", b"x"),
        (OK + b"\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"\r\n", b""),
        (b"", b""),
    ],
)
def test_one_deadline_for_the_whole(head: bytes, drip: bytes) -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drip)
            await asyncio.sleep(0.05)

    assert ask(serve, 0.3).error == "no answer within 0.3 s"


def test_endless_answer_without_a_pause() -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
            await writer.drain()

    assert ask(serve, 0.5).error == "no answer within 0.5 s"


def ask_three(sent: bytes) -> list[Answer]:
    async def conversation() -> list[Answer]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _path in range(3):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        try:
            return await client.get_all("127.0.0.1", server.sockets[0].getsockname()[1], ("/a", "/b", "/c"), 5)
        finally:
            server.close()

    return asyncio.run(conversation())


def test_several_questions_at_once() -> None:
    sent = OK + b"Content-Length: 1\r\n\r\na" + CHUNKED + b"1\r\nb\r\n0\r\n\r\n" + b"HTTP/1.1 404 None\r\n\r\nc"
    assert [(answer.status, answer.body) for answer in ask_three(sent)] == [(200, b"a"), (200, b"b"), (404, b"c")]


def test_what_ends_the_answers_stands_for_those_that_are_missing() -> None:
    answers = ask_three(OK + b"Content-Length: 1\r\n\r\na" + b"nonsense\r\n")
    assert [str(answer)[:8] for answer in answers] == ["HTTP 200", "NotHttp:", "NotHttp:"]
    assert {str(answer)[:8] for answer in ask_three(b"")} == {"EOFError"}


def test_reset_connection() -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        writer.write(OK)

    assert ask(serve).error.split(":")[0] in ("ConnectionResetError", "EOFError")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answer = asyncio.run(client.request("127.0.0.1", port, "GET", "/", 5))
    assert answer.refused
    assert not answer.ok


def test_the_deaf_are_not_waited_for() -> None:
    """Connections that nobody accepts are made all the same."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        answer = asyncio.run(client.request("127.0.0.1", deaf.getsockname()[1], "GET", "/", 0.2))
    assert answer.error == "no answer within 0.2 s"
    assert not answer.refused


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "127.0.0.1\0"])
def test_a_host_that_is_none(host: str) -> None:
    assert asyncio.run(client.request(host, 1, "GET", "/", 5)).error


def test_what_is_sent() -> None:
    received: list[bytes] = []

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n")

    asyncio.run(exchange(serve, 5, received))
    lines = received[0].split(b"\r\n")
    assert lines[0] == b"GET /x HTTP/1.1"
    assert lines[1].startswith(b"Host: 127.0.0.1:")
    assert b"Connection: close" in lines


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"", None),
        (b"<html>", None),
        (b"\xff\xfe\xfd", None),
        (b"[" * 100000, None),
        (b"9" * 10000, None),
    ],
)
def test_json_of_a_body(body: bytes, expected: object) -> None:
    assert Answer(200, body, "", 0).json() == expected


HTTP_PARTS = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 ",
            b"200 OK",
            b"100 Continue",
            b"\r\n",
            b"\n",
            b"\r\n\r\n",
            b"Transfer-Encoding: chunked",
            b"Content-Length: ",
            b"0",
            b"7",
            b"ffffffffffff",
            b"-1",
            b";",
            b"<html>",
            b"\0",
            b"\xff" * 9,
        ]
    )
    | st.binary(max_size=8),
    max_size=24,
).map(b"".join)


@settings(max_examples=150)
@given(HTTP_PARTS | st.binary(max_size=400))
def test_any_bytes_end_in_an_answer(sent: bytes) -> None:
    ask(sent, 2)
