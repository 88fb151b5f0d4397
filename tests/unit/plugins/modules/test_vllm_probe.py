# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_probe sees of simulated servers, and how it waits."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import trial
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import UNCOUNTED, Unit
from ansible_collections.inferops.vllm.plugins.modules import vllm_probe
from doubles.node import Runtime, Server


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime(Unit("running"))
    monkeypatch.setattr(vllm_probe.runtime, "named", lambda _runtime: found)
    found.written = "the last words"
    return found


@pytest.fixture(autouse=True)
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "tiny")
    yield made
    made.end()


@pytest.fixture
def probe(call, tmp_path):
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        return call(vllm_probe, check, config_dir=str(tmp_path), **arguments)

    return run


def seen(result: dict[str, Any]) -> dict[str, Any]:
    assert not result.get("failed"), result
    assert result["changed"] is False
    return result["instances"]["tiny"]


class TestLook:
    def test_serving(self, probe, server):
        server.start()
        assert seen(probe(wait=True, timeout_seconds=20))["serves"]
        found = seen(probe())
        assert (found["state"], found["serves"], found["successes"]) == ("ready", True, 1)

    def test_loading(self, probe, server):
        server.start(SIM_LOAD_SECONDS="60")
        started = time.monotonic()
        found = seen(probe())
        assert (found["state"], found["serves"]) == ("loading", False)
        assert time.monotonic() - started < 5, "one look does not wait for the end of the load"

    def test_hung(self, probe, server):
        """One look is too short to know it, but it does not serve."""
        server.start()
        probe(wait=True, timeout_seconds=20)
        server.tell(hang=True)
        found = seen(probe(timeout_seconds=1))
        assert found["serves"] is False

    def test_not_running(self, probe, runtime):
        runtime.unit = Unit("stopped")
        found = seen(probe())
        assert (found["state"], found["evidence"], found["serves"]) == ("down", "it is stopped", False)

    def test_failing(self, probe, server):
        server.start(SIM_FAIL="1")
        probe(wait=True, timeout_seconds=3)
        found = seen(probe())
        assert found["serves"] is False
        assert "its last one-token request ended with HTTP 500" in found["evidence"]

    def test_check_mode_is_one_look(self, probe, server):
        server.start(SIM_LOAD_SECONDS="60")
        assert seen(probe(check=True, wait=True))["state"] == "loading"

    def test_all_instances(self, probe, tmp_path):
        Server(tmp_path, "other")
        assert sorted(probe()["instances"]) == ["other", "tiny"]
        assert sorted(probe(names=["other", "other"])["instances"]) == ["other"]
        assert probe(names=[])["instances"] == {}


class TestWait:
    def test_until_it_serves(self, probe, server):
        server.start(SIM_LOAD_SECONDS="2")
        found = seen(probe(wait=True, timeout_seconds=20, consecutive_successes=3))
        assert (found["state"], found["serves"], found["successes"]) == ("ready", True, 3)
        assert 2 <= found["seconds"] < 60

    def test_time_is_over(self, probe, server):
        server.start(SIM_LOAD_SECONDS="60")
        result = probe(wait=True, timeout_seconds=2)
        assert result["failed"]
        assert result["msg"].startswith("instance tiny does not serve after 2 s. It is loading: ")
        assert result["msg"].endswith("The end of its log:\nthe last words")
        assert result["instances"]["tiny"]["serves"] is False

    def test_crash_loop(self, probe, runtime, monkeypatch):
        """No reason to wait for the end of the time."""
        restarts = iter(range(2, 100))

        async def units(names):
            return dict.fromkeys(names, Unit("starting", next(restarts)))

        monkeypatch.setattr(runtime, "units", units)
        started = time.monotonic()
        result = probe(wait=True, timeout_seconds=100)
        assert "instance tiny does not serve and ended 3 times while it was waited for" in result["msg"]
        assert time.monotonic() - started < 20

    def test_fewer_restarts_than_before_are_none(self):
        found = trial.Seen()
        for count in (UNCOUNTED, 5, 6, UNCOUNTED, 0, 1, 2):
            found.note_restarts(count)
        assert (found.restarts, found.crashes) == (2, False)
        found.note_restarts(3)
        assert found.crashes

    def test_server_of_another_model(self, probe, server):
        server.start(model="another")
        server.instance = None
        result = probe(wait=True, timeout_seconds=3)
        assert "404" in result["msg"] or "it serves another" in result["msg"]

    def test_server_that_answers_to_every_name(self, probe, server, monkeypatch):
        async def models(*_arguments):
            return ["another"]

        monkeypatch.setattr(trial.probe, "served_models", models)
        server.start()
        result = probe(wait=True, timeout_seconds=3)
        assert f"another server answers on port {server.instance.port}: it serves another" in result["msg"]

    def test_saturated_server_is_heard(self, probe, server):
        server.start()
        probe(wait=True, timeout_seconds=20)
        server.tell(saturate={"health_seconds": 2})
        assert seen(probe(wait=True, timeout_seconds=20))["serves"]


class TestSlices:
    """As the controller's half calls it."""

    def test_a_change_ends_a_slice_and_the_next_goes_on(self, probe, server):
        server.start(SIM_LOAD_SECONDS="1")
        progress: Any = {}
        states, started = [], time.monotonic()
        for _number in range(60):
            waited = time.monotonic() - started
            result = probe(wait=True, timeout_seconds=60, _slice={"seconds": 1, "waited": waited, "progress": progress})
            states.append(seen(result)["state"])
            if "_slice" not in result:
                break
            progress = result["_slice"]
        assert states[0] == "loading"
        assert states[-1] == "ready"
        assert seen(result)["seconds"] >= 1

    def test_server_that_serves_needs_one_slice(self, probe, server):
        server.start()
        probe(wait=True, timeout_seconds=20)
        result = probe(wait=True, timeout_seconds=60, _slice={"seconds": 3, "waited": 0, "progress": {}})
        assert seen(result)["serves"]
        assert "_slice" not in result

    def test_time_waited_in_earlier_slices_counts(self, probe, server):
        server.start(SIM_LOAD_SECONDS="60")
        result = probe(wait=True, timeout_seconds=60, _slice={"seconds": 10, "waited": 59.5, "progress": {}})
        assert "instance tiny does not serve after 60 s" in result["msg"]

    def test_restarts_of_earlier_slices_count(self, probe, runtime):
        runtime.unit = Unit("starting", 2)
        first = probe(wait=True, timeout_seconds=60, _slice={"seconds": 0.1, "waited": 0, "progress": {}})
        runtime.unit = Unit("starting", 5)
        second = probe(wait=True, timeout_seconds=60, _slice={"seconds": 9, "waited": 1, "progress": first["_slice"]})
        assert "ended 3 times" in second["msg"]


class TestRefused:
    @pytest.mark.parametrize("option", ["timeout_seconds", "consecutive_successes"])
    def test_numbers(self, probe, option):
        assert probe(**{option: 0})["msg"] == f"{option} is 0: write 1 or more"

    def test_unknown_name(self, probe):
        expected = (
            "names has big, and the instances of this node are tiny: correct the name, or set the instance up first"
        )
        assert probe(names=["big"])["msg"] == expected
        assert not probe(check=True, names=["big"]).get("failed"), "it may be set up by the very same run"

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "tiny"}', '{"colour": "red"}'])
    def test_damaged_description(self, probe, server, text):
        Path(server.instance.description_path).write_text(text)
        message = probe()["msg"]
        assert message.startswith(f"{server.instance.description_path} cannot be read")
        assert message.endswith("deploy the instance again")

    def test_damaged_settings(self, probe, monkeypatch, tmp_path):
        (tmp_path / "health").write_text('{"look_seconds": 0}')
        load = vllm_probe.health_settings.load
        monkeypatch.setattr(vllm_probe.health_settings, "load", lambda: load(str(tmp_path / "health")))
        assert "look_seconds is 0" in probe()["msg"]


def test_server_that_stops_in_between_has_to_begin_anew(probe, server, runtime):
    server.start()
    probe(wait=True, timeout_seconds=20)
    runtime.unit = Unit("stopped")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    progress = {"tiny": {"state": "ready", "successes": 1}}
    result = probe(
        wait=True,
        timeout_seconds=60,
        consecutive_successes=2,
        _slice={"seconds": 0.1, "waited": 0, "progress": progress},
    )
    assert result["_slice"]["tiny"]["successes"] == 0
