# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine of this node, asked over its socket, which it opens to root."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from .unix_http import Connection

SOCKET = "/run/docker.sock"
ANSWER_SECONDS = 20.0
BEGIN_SECONDS = 1.0
"""A request that is not refused within this goes on after its connection is closed."""
LABEL = "inferops.vllm.instance"
"""Names the instance of a container."""
FRAME_HEAD_BYTES = 8
NOT_MODIFIED = 304
NOT_FOUND = 404


class Refused(Exception):
    """dockerd does not answer, or does not do it; the message says why."""


class Dockerd:
    """Every call blocks for as long as dockerd takes to answer."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path

    def containers(self) -> dict[str, dict[str, Any]]:
        """What it says of each container of an instance, by the instances' names."""
        query = urlencode({"all": "true", "filters": json.dumps({"label": [LABEL]})})
        return {found["Labels"][LABEL]: found for found in json.loads(self._ask("GET", f"/containers/json?{query}"))}

    def inspect(self, container: str) -> dict[str, Any]:
        """All that it knows of a container; nothing where there is none."""
        found = self._ask("GET", f"/containers/{quote(container)}/json", ignored=(NOT_FOUND,))
        return dict(json.loads(found)) if found else {}

    def info(self) -> dict[str, Any]:
        return dict(json.loads(self._ask("GET", "/info")))

    def create(self, container: str, definition: Mapping[str, Any]) -> None:
        self._ask("POST", f"/containers/create?{urlencode({'name': container})}", definition)

    def start(self, container: str) -> None:
        self._ask("POST", f"/containers/{quote(container)}/start", ignored=(NOT_MODIFIED,))

    def begin_stop(self, container: str) -> None:
        """Have it begin to stop, to stay stopped until the engine starts again."""
        try:
            self._request("POST", f"/containers/{quote(container)}/stop", BEGIN_SECONDS, (NOT_MODIFIED, NOT_FOUND))
        except socket.timeout:
            return

    def stop(self, container: str, timeout_seconds: float) -> None:
        """Stop it; done when all of its processes are gone."""
        path = f"/containers/{quote(container)}/stop"
        self._ask("POST", path, timeout_seconds=timeout_seconds, ignored=(NOT_MODIFIED, NOT_FOUND))

    def remove(self, container: str) -> None:
        self._ask("DELETE", f"/containers/{quote(container)}?v=true&force=true", ignored=(NOT_FOUND,))

    def log(self, container: str, lines: int) -> str:
        """The end of what was written on both of its outputs."""
        query = urlencode({"stdout": "true", "stderr": "true", "tail": lines})
        return _unframed(self._ask("GET", f"/containers/{quote(container)}/logs?{query}")).decode(errors="replace")

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float = ANSWER_SECONDS,
        ignored: tuple[int, ...] = (),
    ) -> bytes:
        try:
            return self._request(method, path, timeout_seconds, ignored, body)
        except socket.timeout as error:
            raise Refused(f"dockerd has not done {method} {path} within {timeout_seconds:g} s") from error

    def _request(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        ignored: tuple[int, ...],
        body: Mapping[str, Any] | None = None,
    ) -> bytes:
        connection = Connection(self._path, timeout_seconds)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            data = answer.read()
        except socket.timeout:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"dockerd does not answer on {self._path}: {error}") from error
        finally:
            connection.close()
        if answer.status in ignored:
            return b""
        if answer.status >= 300:
            raise Refused(f"dockerd refuses {method} {path}: {_reason(data)}")
        return data


def _reason(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip()


def _unframed(data: bytes) -> bytes:
    """Both outputs in the order of their writing: each piece has a head that ends with its length."""
    text = b""
    while len(data) >= FRAME_HEAD_BYTES:
        end = FRAME_HEAD_BYTES + int.from_bytes(data[4:FRAME_HEAD_BYTES], "big")
        text += data[FRAME_HEAD_BYTES:end]
        data = data[end:]
    return text
