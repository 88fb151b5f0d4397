# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_drain writes, waits for, shows and refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.modules import vllm_drain
from doubles.node import Server


@pytest.fixture(autouse=True)
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "tiny")
    yield made
    made.end()


@pytest.fixture
def drain(call, tmp_path):
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        directories = {"config_dir": str(tmp_path), "drain_dir": str(tmp_path / "drain")}
        return call(vllm_drain, check, **{**directories, "settle_seconds": 0, **arguments})

    return run


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "drain/tiny"


def busy(server: Server, tokens: int) -> threading.Thread:
    """Have the server work, a hundredth of a second for each token."""
    server.start()
    for _attempt in range(1000):
        try:
            server.tell()
            break
        except OSError:
            time.sleep(0.05)
    body = {"model": "m", "prompt": "hi", "max_tokens": tokens, "ignore_eos": True}

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # of a server that the test ends
            server.post("/v1/completions", body)

    client = threading.Thread(target=ask, daemon=True)
    client.start()
    while not server.tell()["in_flight"]:
        time.sleep(0.01)
    return client


def test_server_that_does_not_run_has_nothing_in_flight(drain, flag):
    result = drain(reason="kernel upgrade")
    assert result["changed"] is True
    found = result["instances"]["tiny"]
    assert (found["drained"], found["reason"]) == (True, "kernel upgrade")
    assert found["in_flight"] == {"running": 0, "waiting": 0, "load": 0}
    assert json.loads(flag.read_text()) == {"since": found["since"], "reason": "kernel upgrade"}


def test_second_run_changes_nothing_and_keeps_the_first_reason(drain, flag):
    drain(reason="first")
    before = flag.read_text()
    result = drain(reason="second")
    assert (result["changed"], result["instances"]["tiny"]["reason"]) == (False, "first")
    assert result["diff"]["before"] == result["diff"]["after"]
    assert flag.read_text() == before


def test_check_mode_shows_and_does_nothing(drain, flag):
    result = drain(check=True, reason="why")
    assert result["changed"] is True
    assert result["diff"] == {"before": {"drained": []}, "after": {"drained": ["tiny"]}}
    assert result["instances"]["tiny"] == {"drained": True, "since": "", "reason": "why"}
    assert not flag.exists()
    drain()
    result = drain(check=True, state="undrained")
    assert result["changed"] is True
    assert result["diff"] == {"before": {"drained": ["tiny"]}, "after": {"drained": []}}
    assert flag.exists()


def test_undrained(drain, flag):
    drain()
    result = drain(state="undrained")
    assert (result["changed"], flag.exists()) == (True, False)
    assert result["instances"]["tiny"] == {"drained": False, "since": "", "reason": ""}
    assert drain(state="undrained")["changed"] is False


def test_waits_for_what_is_in_flight(drain, server):
    client = busy(server, 200)
    started = time.monotonic()
    result = drain(timeout_seconds=30)
    assert not result.get("failed"), result
    assert time.monotonic() - started > 1
    client.join(1)
    assert not client.is_alive(), "the request was finished"


def test_numbers_at_the_deadline(drain, server, flag):
    busy(server, 4000)
    result = drain(timeout_seconds=1)
    assert result["failed"]
    assert result["msg"] == (
        "after 1 s not everything is finished: tiny has 1 requests running, 0 waiting and 1 in the API server."
        " The instances stay drained: wait longer with timeout_seconds or overdue=wait, or go on with overdue=cut"
    )
    assert result["instances"]["tiny"]["in_flight"] == {"running": 1, "waiting": 0, "load": 1}
    assert flag.exists()


def test_does_not_wait_where_told(drain, server, flag):
    busy(server, 4000)
    result = drain(wait=False)
    assert "in_flight" not in result["instances"]["tiny"]
    assert flag.exists()


def test_load_balancers_are_given_time_to_learn_of_it(drain):
    started = time.monotonic()
    drain(settle_seconds=1, timeout_seconds=10)
    assert time.monotonic() - started >= 1
    started = time.monotonic()
    drain(settle_seconds=9, timeout_seconds=10)
    assert time.monotonic() - started < 5, "they know already"


def test_slices(drain, server):
    busy(server, 300)
    progress, waited, changed = {}, 0.0, []
    for _number in range(30):
        step = {"seconds": 0.5, "waited": waited, "progress": progress}
        result = drain(timeout_seconds=30, settle_seconds=2, _slice=step)
        changed.append(result["changed"])
        if "_slice" not in result:
            break
        assert "1 requests running" in result["instances"]["tiny"]["in_flight_text"] or waited > 1
        progress, waited = result["_slice"], waited + 0.6
        assert progress == {"fresh": True}
    assert changed[0] is True
    assert not any(changed[1:])
    assert len(changed) > 3


def test_unknown_name(drain, tmp_path):
    for check in (False, True):
        assert "names has big, and the instances of this node are tiny" in drain(check=check, names=["big"])["msg"]
    assert not (tmp_path / "drain").exists()


def test_flag_that_cannot_be_written(drain, tmp_path):
    (tmp_path / "drain").write_text("")
    assert "drain" in drain()["msg"]


def test_too_little_time(drain, flag):
    message = drain(timeout_seconds=5, settle_seconds=5)["msg"]
    assert message == "timeout_seconds is 5, no more than settle_seconds (5): write more"
    assert not flag.exists()
