# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a server over HTTP, each with a deadline."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

from .instance import Instance

MAX_BODY_BYTES = 4 * 1024 * 1024
NOT_FOUND = 404


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

    def json(self) -> Any:
        """The decoded body, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status else self.error


def request(
    instance: Instance, method: str, path: str, timeout_seconds: float, body: Any = None, key: str | None = None
) -> Answer:
    """One request to the instance's server; never raises for what the network or the server does."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    payload = None if body is None else json.dumps(body)
    connection = http.client.HTTPConnection(instance.address, instance.port, timeout=timeout_seconds)
    started = time.monotonic()
    try:
        connection.request(method, path, payload, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read(MAX_BODY_BYTES), "", time.monotonic() - started)
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, b"", f"{type(error).__name__}: {error}", time.monotonic() - started)
    finally:
        connection.close()


def health(instance: Instance, timeout_seconds: float) -> Answer:
    return request(instance, "GET", "/health", timeout_seconds)


def inference(instance: Instance, timeout_seconds: float, key: str | None = None) -> Answer:
    """One token, or one embedding where the model makes those: the only look that reaches the engine."""
    body = {"model": instance.served_model_name, "prompt": "ready", "max_tokens": 1}
    answer = request(instance, "POST", "/v1/completions", timeout_seconds, body, key)
    if answer.status != NOT_FOUND:
        return answer
    body = {"model": instance.served_model_name, "input": "ready"}
    return request(instance, "POST", "/v1/embeddings", timeout_seconds, body, key)


def served_models(instance: Instance, timeout_seconds: float, key: str | None = None) -> list[str]:
    """Names under which the server answers; empty where it does not say."""
    page = request(instance, "GET", "/v1/models", timeout_seconds, key=key).json()
    return [model["id"] for model in page["data"]] if isinstance(page, dict) and "data" in page else []
