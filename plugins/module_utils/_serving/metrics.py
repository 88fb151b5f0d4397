# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a server's /metrics and /load tells whether it works, and on how much."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .client import Answer

STEPS = "iteration_tokens_total_count"
RUNNING = "num_requests_running"
WAITING = "num_requests_waiting"
AWAKE = "engine_sleep_state"

# A handful of some 700 lines, so the page is searched, not parsed.
SAMPLE = re.compile(
    rb"^vllm:(" + "|".join((STEPS, RUNNING, WAITING, AWAKE)).encode() + rb")(?:\{(.*)\})?[ \t]+(\S+)", re.MULTILINE
)
ANSWERS = re.compile(rb"^http_requests_total\{(.*)\}[ \t]+(\S+)", re.MULTILINE)
ENGINE_ERRORS = re.compile(
    rb'^vllm:request_success_total\{[^}\n]*finished_reason="error"[^}\n]*\}[ \t]+(\S+)', re.MULTILINE
)
ENGINE = re.compile(rb'(?:^|,)[ \t]*engine="((?:[^"\\]|\\.)*)"')
SLEEP_STATE = re.compile(rb'(?:^|,)[ \t]*sleep_state="awake"')


@dataclass(frozen=True)
class Engine:
    """One engine of a server, as it last reported."""

    steps: float
    """Steps since its start; every one that schedules tokens counts."""
    running: float = 0.0
    waiting: float = 0.0
    asleep: bool = False

    @property
    def in_flight(self) -> bool:
        return self.running + self.waiting > 0


def parse(page: bytes) -> dict[str, Engine]:
    """The engines of a page by their label; empty where the page has no step counter that can be read."""
    values: dict[str, dict[str, float]] = {}
    for name, labels, text in SAMPLE.findall(page):
        value = _number(text)
        if value is None or (name == AWAKE.encode() and not SLEEP_STATE.search(labels)):
            continue
        label = ENGINE.search(labels)
        engine = values.setdefault(label[1].decode("utf-8", "replace") if label else "", {})
        engine[name.decode()] = engine.get(name.decode(), 0.0) + value
    return {label: _engine(found) for label, found in values.items() if STEPS in found}


@dataclass(frozen=True)
class Served:
    """Requests that a server has answered since its start."""

    requests: float = 0.0
    errors: float = 0.0
    """Of them, those that the server itself has failed."""


def served(page: bytes) -> Served:
    """What a page counts: answers of status 5xx, and those that an engine ended with an error inside a status 200."""
    requests = errors = 0.0
    for labels, text in ANSWERS.findall(page):
        value = _number(text) or 0.0
        if b'handler="none"' not in labels:
            requests += value
            errors += value if b'status="5xx"' in labels else 0.0
    engine_errors = sum(_number(text) or 0.0 for text in ENGINE_ERRORS.findall(page))
    return Served(requests, errors + engine_errors)


def in_api_server(page: Answer) -> int | None:
    """Requests that an API server has, by its answer to /load; None where it does not say."""
    load = page.json() if page.ok else None
    count = load.get("server_load") if isinstance(load, dict) else None
    return count if isinstance(count, int) and count >= 0 else None


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _engine(found: Mapping[str, float]) -> Engine:
    return Engine(found[STEPS], found.get(RUNNING, 0.0), found.get(WAITING, 0.0), found.get(AWAKE, 1.0) == 0)
