# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in flight, and when it is over."""

from __future__ import annotations

import asyncio

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import client, flight
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer
from ansible_collections.inferops.vllm.plugins.module_utils._serving.flight import NOTHING, InFlight
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance

TINY = Instance(name="tiny", port=1, served_model_name="tiny", user="vllm", root="/o")
REFUSED = Answer(None, b"", "ConnectionRefusedError: [Errno 111]", 0)


def page(*engines: tuple[int, int]) -> Answer:
    lines = [
        f'vllm:iteration_tokens_total_count{{engine="{number}"}} 1\n'
        f'vllm:num_requests_running{{engine="{number}"}} {running}\n'
        f'vllm:num_requests_waiting{{engine="{number}"}} {waiting}\n'
        for number, (running, waiting) in enumerate(engines)
    ]
    return Answer(200, "".join(lines).encode(), "", 0)


def load(body: bytes) -> Answer:
    return Answer(200, body, "", 0)


def answers(monkeypatch: pytest.MonkeyPatch, *looks: list[Answer]) -> None:
    rest = list(looks)

    async def get_all(*_arguments: object) -> list[Answer]:
        return rest.pop(0) if len(rest) > 1 else rest[0]

    monkeypatch.setattr(client, "get_all", get_all)
    monkeypatch.setattr(flight, "LOOK_SECONDS", 0)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        ([page((1, 2), (3, 4)), load(b'{"server_load": 11}')], InFlight(4, 6, 11)),
        ([page((0, 0)), load(b'{"server_load": 0}')], NOTHING),
        ([page((0, 0)), Answer(404, b"", "", 0)], InFlight(0, 0, None)),
        ([page((0, 0)), load(b"[]")], InFlight(0, 0, None)),
        ([page((0, 0)), load(b'{"server_load": "none"}')], InFlight(0, 0, None)),
        ([Answer(500, b"", "", 0), load(b'{"server_load": 0}')], InFlight(None, None, 0)),
        ([load(b"<html>"), load(b'{"server_load": 0}')], InFlight(None, None, 0)),
        ([Answer(None, b"", "no answer within 1 s", 1)] * 2, InFlight()),
        ([REFUSED, REFUSED], NOTHING),
    ],
)
def test_count(monkeypatch: pytest.MonkeyPatch, look: list[Answer], expected: InFlight) -> None:
    answers(monkeypatch, look)
    assert asyncio.run(flight.count(TINY, 1)) == expected
    assert expected.none == (expected == NOTHING), "what is not known is not nothing"


def clock(step: float = 1.0):
    now = [0.0]

    def tell() -> float:
        now[0] += step
        return now[0]

    return tell


SOME = [page((1, 0)), load(b'{"server_load": 1}')]
NONE = [page((0, 0)), load(b'{"server_load": 0}')]


def test_two_empty_looks_in_a_row_are_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, SOME, NONE, SOME, NONE, NONE, SOME)
    assert asyncio.run(flight.until_none(TINY, 0, 1000, clock())) == (NOTHING, True)


def test_what_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, NONE, SOME)
    assert asyncio.run(flight.until_none(TINY, 0, 20, clock())) == (InFlight(1, 0, 1), False)


def test_empty_looks_before_the_load_balancers_know_are_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, NONE)
    tell = clock()
    assert asyncio.run(flight.until_none(TINY, 50, 1000, tell)) == (NOTHING, True)
    assert tell() > 50


def test_words() -> None:
    assert str(InFlight(1, 2, 3)) == "1 requests running, 2 waiting and 3 in the API server"
    assert str(InFlight(1, 2)) == "1 requests running, 2 waiting and an unknown number in the API server"
    assert "cannot be read" in str(InFlight())
