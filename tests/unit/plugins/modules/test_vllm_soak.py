# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_soak counts of a simulated server's answers, and when it has had enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.modules import vllm_soak
from doubles.node import Server

ASKED = {"model": "m", "prompt": "a", "max_tokens": 1}


@pytest.fixture(autouse=True)
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "tiny")
    made.start()
    made.await_load()
    yield made
    made.end()


@pytest.fixture
def soak(call: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(**arguments: Any) -> dict[str, Any]:
        options = {"config_dir": str(tmp_path), "seconds": 0.1, **arguments}
        result: dict[str, Any] = call(vllm_soak, **options)
        return result

    return run


def step(progress: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"seconds": 0.1, "waited": 0.0, "progress": progress or {}}


def ask(server: Server) -> None:
    server.post("/v1/completions", ASKED)


def test_counts_what_is_answered_meanwhile(soak, server):
    ask(server)
    first = soak(seconds=60, _slice=step())
    assert first["instances"] == {"tiny": {"requests": 0, "errors": 0}}
    ask(server)
    ask(server)
    assert soak(seconds=60, _slice=step(first["_slice"]))["instances"] == {"tiny": {"requests": 2, "errors": 0}}


def test_more_errors_than_may_be(soak, server):
    first = soak(seconds=60, _slice=step())
    ask(server)
    server.tell(fail=True)
    ask(server)
    result = soak(seconds=60, _slice=step(first["_slice"]))
    assert result["failed"]
    assert result["msg"] == "instance tiny failed 1 of 2 requests while it was watched, and 1 % may fail"
    assert not soak(seconds=60, errors_max_percent=50, _slice=step(first["_slice"])).get("failed")


def test_server_that_ends(soak, server):
    first = soak(seconds=60, _slice=step())
    server.end()
    result = soak(seconds=60, _slice=step(first["_slice"]))
    assert result["failed"]
    assert "instance tiny: its server has ended" in result["msg"]


def test_ends_when_time_is_over(soak):
    result = soak()
    assert not result.get("failed"), result
    assert "_slice" not in result
