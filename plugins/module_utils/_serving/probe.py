# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server is asked over HTTP."""

from __future__ import annotations

import json
from typing import Any

from . import client
from . import instance as instances
from .client import Answer
from .instance import Instance

NOT_FOUND = 404
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "ready", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "ready"}),
    ("/pooling", {"input": "ready"}),
)
"""The smallest piece of work for each kind of model; a server has no path for what its model cannot do."""


async def get(instance: Instance, path: str, timeout_seconds: float, key: str | None = None) -> Answer:
    return await client.request(
        instance.address, instance.port, "GET", path, timeout_seconds, headers=_authorization(key)
    )


async def post(instance: Instance, path: str, timeout_seconds: float, body: Any, key: str | None = None) -> Answer:
    return await client.request(
        instance.address,
        instance.port,
        "POST",
        path,
        timeout_seconds,
        json.dumps(body).encode(),
        _authorization(key),
    )


def _authorization(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


async def one_token(instance: Instance, timeout_seconds: float) -> Answer:
    """One token, or one vector where the model makes those: the only question that reaches the engine."""
    try:
        key = instances.api_key(instance)
    except (OSError, ValueError) as error:
        return Answer(None, b"", f"{instance.config_path}: {error}", 0.0)
    for path, body in QUESTIONS:
        named = {"model": instance.served_model_name, **body}
        answer = await post(instance, path, timeout_seconds, named, key)
        if answer.status != NOT_FOUND:
            break
    return answer


async def completion(instance: Instance, prompt: str, max_tokens: int, timeout_seconds: float) -> tuple[str, Answer]:
    """The text that a server completes a prompt with, always the same one; empty where it gives none."""
    body = {"model": instance.served_model_name, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    answer = await post(instance, "/v1/completions", timeout_seconds, body, instances.api_key(instance))
    page: Any = answer.json() if answer.ok else None
    try:
        return str(page["choices"][0]["text"]), answer
    except (TypeError, KeyError, IndexError):
        return "", answer


async def served_models(instance: Instance, timeout_seconds: float) -> list[str]:
    """Names under which the server answers; empty where it does not say."""
    page = (await get(instance, "/v1/models", timeout_seconds, instances.api_key(instance))).json()
    models = page.get("data") if isinstance(page, dict) else None
    if not isinstance(models, list):
        return []
    return [str(model["id"]) for model in models if isinstance(model, dict) and "id" in model]
