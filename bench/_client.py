# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of an OpenAI-compatible endpoint: asks all the while, and knows of each request how it ended."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Longer than any recovery: a request that the load balancer holds, and repeats in the end, has not failed.
TIMEOUT_SECONDS = 600
HANG_UP_SECONDS = 30


@dataclass(frozen=True)
class Kind:
    """Requests of one kind, one after the other, with a pause between them."""

    name: str
    tokens: int
    streamed: bool = False
    pause_seconds: float = 1
    prompt: str = "Tell me about the quick brown fox."


# A thread of each. The nodes of the demo share a machine: what they answer is taken from the one that loads.
KINDS = (Kind("short", 4), Kind("long", 80, pause_seconds=2), Kind("stream", 80, streamed=True, pause_seconds=2))


@dataclass(frozen=True)
class Request:
    kind: Kind
    began: float
    ended: float
    status: int
    """Of HTTP, 0 where no answer came."""
    fault: str = ""
    """What is wrong with the answer, empty where it is whole."""


class Client:
    """Threads that ask, each its kind of request, from enter to exit; on exit they finish what they have."""

    def __init__(self, endpoint: str, model: str, kinds: tuple[Kind, ...] = KINDS) -> None:
        self._endpoint, self._model = endpoint, model
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._keep_asking, args=(kind,), daemon=True) for kind in kinds]
        self.requests: list[Request] = []

    def __enter__(self) -> Client:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_details: object) -> None:
        self._over.set()
        if error:
            return  # nobody counts any more
        for thread in self._threads:
            thread.join()

    def _keep_asking(self, kind: Kind) -> None:
        while not self._over.is_set():
            self.requests.append(ask(self._endpoint, self._model, kind))
            self._over.wait(kind.pause_seconds)


class Flood:
    """More and more requests at once, each from a thread of its own, until the exit hangs them all up."""

    def __init__(self, endpoint: str, model: str, kind: Kind, per_second: float) -> None:
        self._endpoint, self._model, self._kind = endpoint, model, kind
        self._gap_seconds = 1 / per_second
        self._over = threading.Event()
        self._connections: list[http.client.HTTPConnection] = []
        self._pourer = threading.Thread(target=self._pour, daemon=True)
        self._threads: list[threading.Thread] = []
        self.requests: list[Request] = []

    def __enter__(self) -> Flood:
        self._pourer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._pourer.join()
        deadline = time.monotonic() + HANG_UP_SECONDS
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            # Again and again: one that is being made cannot be ended yet.
            for connection in self._connections.copy():
                hang_up(connection)
            time.sleep(0.1)

    def _pour(self) -> None:
        while not self._over.wait(self._gap_seconds):
            thread = threading.Thread(target=self._ask, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _ask(self) -> None:
        connection = connect(self._endpoint)
        self._connections.append(connection)
        request = ask(self._endpoint, self._model, self._kind, connection)
        # What was hung up here did not fail.
        if not self._over.is_set():
            self.requests.append(request)


def connect(endpoint: str) -> http.client.HTTPConnection:
    url = urlsplit(endpoint)
    return http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)


def hang_up(connection: http.client.HTTPConnection) -> None:
    """End a connection that another thread reads from."""
    try:
        if connection.sock:
            connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself


def ask(endpoint: str, model: str, kind: Kind, connection: http.client.HTTPConnection | None = None) -> Request:
    """Ask once; whatever goes wrong is in the result."""
    body = {"model": model, "prompt": kind.prompt, "max_tokens": kind.tokens, "ignore_eos": True}
    began, status = time.monotonic(), 0
    connection = connection or connect(endpoint)
    try:
        payload = json.dumps({**body, "stream": kind.streamed})
        connection.request("POST", "/v1/completions", payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        status = answer.status
        text = answer.read().decode(errors="replace")
        fault = f"status {status}: {text[:200]}" if status != 200 else fault_of(text, kind)
    except (OSError, http.client.HTTPException) as error:
        fault = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return Request(kind, began, time.monotonic(), status, fault)


def fault_of(text: str, kind: Kind) -> str:
    """What is wrong with an answer of status 200: a server that dies, or stops, may end one early under this status."""
    try:
        return fault_of_stream(text) if kind.streamed else fault_of_answer(json.loads(text), kind.tokens)
    except (ValueError, LookupError, TypeError) as error:
        return f"no completion: {type(error).__name__}: {error}"


def fault_of_answer(answer: dict[str, Any], tokens: int) -> str:
    reason = answer["choices"][0]["finish_reason"]
    if reason != "length":
        return f"finish_reason {reason}"
    made = answer["usage"]["completion_tokens"]
    return "" if made == tokens else f"{made} tokens of {tokens}"


def fault_of_stream(text: str) -> str:
    events = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        return "the stream broke off"
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        return "an error in the stream"
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return "" if reasons and reasons[-1] == "length" else f"finish_reason {reasons[-1] if reasons else None}"
