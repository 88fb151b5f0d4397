# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP requests with one deadline for the whole of each, whatever the other side does.

http.client has a time limit for each read alone: a server that sends a byte a second keeps it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_LENGTH_DIGITS = 20
BODILESS = (204, 304)


@dataclass(frozen=True)
class Answer:
    """What a request came to: a status with its body, or the error that stood in its place."""

    status: int | None
    body: bytes
    error: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def refused(self) -> bool:
        """Whether nothing listens there."""
        return self.error.startswith(ConnectionRefusedError.__name__)

    def json(self) -> Any:
        """The decoded body, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status else self.error


class NotHttp(Exception):
    """What came is no HTTP answer, or more than anybody should send."""


async def request(
    host: str,
    port: int,
    method: str,
    path: str,
    timeout_seconds: float,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    tls: SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own; never raises for what the network or the server does."""
    sent = _head(host, port, method, path, len(body), {"Connection": "close", **(headers or {})}) + body
    (answer,) = await _ask(host, port, sent, 1, timeout_seconds, tls)
    return answer


async def get_all(host: str, port: int, paths: Sequence[str], timeout_seconds: float) -> list[Answer]:
    """GET several paths for the price of one connection and one packet; one deadline for all of them."""
    heads = [_head(host, port, "GET", path, 0, {}) for path in paths[:-1]]
    sent = b"".join([*heads, _head(host, port, "GET", paths[-1], 0, {"Connection": "close"})])
    return await _ask(host, port, sent, len(paths), timeout_seconds, None)


async def _ask(
    host: str, port: int, sent: bytes, count: int, timeout_seconds: float, tls: SSLContext | None
) -> list[Answer]:
    """That many answers; what ends the exchange early stands in place of all that are missing."""
    started = time.monotonic()
    answers: list[Answer] = []
    try:
        await asyncio.wait_for(_exchange(host, port, sent, count, tls, answers), timeout_seconds)
    except asyncio.TimeoutError:
        error = f"no answer within {timeout_seconds:g} s"
    except (OSError, EOFError, NotHttp, ValueError) as failure:  # ValueError: of a host that can be none
        error = f"{type(failure).__name__}: {failure}"
    else:
        return answers
    return answers + [Answer(None, b"", error, time.monotonic() - started)] * (count - len(answers))


def _head(host: str, port: int, method: str, path: str, length: int, headers: Mapping[str, str]) -> bytes:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority}"]
    if length:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


async def _exchange(
    host: str, port: int, sent: bytes, count: int, tls: SSLContext | None, answers: list[Answer]
) -> None:
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_LINE_BYTES, ssl=tls)
    try:
        writer.write(sent)
        for _number in range(count):
            status, body = await _read(reader)
            answers.append(Answer(status, body, "", time.monotonic() - started))
    finally:
        # Nobody waits for the other side to agree: it may be the one that hangs.
        with contextlib.suppress(OSError):
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer."""
    status = _status(await _line(reader))
    while 100 <= status < 200:
        await _headers(reader)
        status = _status(await _line(reader))
    headers = await _headers(reader)
    if status in BODILESS:
        return status, b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return status, await _chunks(reader)
    if "content-length" in headers:
        return status, await reader.readexactly(_length(headers["content-length"], 10))
    return status, await _rest(reader)


def _status(line: bytes) -> int:
    version, _space, rest = line.partition(b" ")
    code = rest.partition(b" ")[0]
    if not version.startswith(b"HTTP/1.") or not code.isdigit() or len(code) != 3 or code < b"100":
        raise NotHttp(f"the answer begins with {line[:40]!r}")
    return int(code)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError as error:
        raise NotHttp(f"a line of more than {MAX_LINE_BYTES} bytes") from error
    if not line.endswith(b"\n"):
        raise EOFError("the connection ended within the answer" if line else "the connection ended without an answer")
    return line.rstrip(b"\r\n")


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _number in range(MAX_HEADERS):
        line = await _line(reader)
        if not line:
            return headers
        name, _colon, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    raise NotHttp(f"more than {MAX_HEADERS} headers")


def _length(text: str, base: int) -> int:
    # int() would take signs and underscores, and a number too long to be shown.
    try:
        length = int(text, base) if text.isalnum() and len(text) <= MAX_LENGTH_DIGITS else -1
    except ValueError:
        length = -1
    if length < 0:
        raise NotHttp(f"the length is {text[:40]!r}")
    _bounded(length)
    return length


def _bounded(length: int) -> None:
    if length > MAX_BODY_BYTES:
        raise NotHttp(f"an answer of more than {MAX_BODY_BYTES} bytes")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        length = _length((await _line(reader)).partition(b";")[0].strip().decode("latin-1"), 16)
        if not length:
            await _headers(reader)
            return bytes(body)
        body += await reader.readexactly(length)
        _bounded(len(body))
        await _line(reader)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        part = await reader.read(MAX_LINE_BYTES)
        if not part:
            return bytes(body)
        body += part
        _bounded(len(body))
