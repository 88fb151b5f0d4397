# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of cron: what it restarts, and above all what it does not."""

from __future__ import annotations

import json

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import check as health
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.probe import Answer

TINY = Instance("tiny", 8000, "tiny", "vllm", "/opt/vllm", start_grace_seconds=600)
WELL = Answer(200, b"", "", 0.01)
DEAF = Answer(None, b"", "TimeoutError: timed out", 5)


class Runtime(health.Systemd):
    """Says how long the server runs, and remembers restarts."""

    def __init__(self, *ages: float | None) -> None:
        self.ages = list(ages)
        self.restarted: list[str] = []

    def running_seconds(self, _instance: Instance) -> float | None:
        return self.ages.pop(0) if len(self.ages) > 1 else self.ages[0]

    def restart(self, instance: Instance) -> None:
        self.restarted.append(instance.name)


def look(runtime: Runtime, *answers: Answer) -> dict:
    said = iter(answers)
    return health.check(TINY, health.Settings(tries=3), runtime, lambda *_arguments: next(said), lambda _seconds: None)


def test_deaf_server_is_restarted_with_its_evidence():
    runtime = Runtime(3600)
    seen = look(runtime, DEAF, DEAF, DEAF)
    assert runtime.restarted == ["tiny"]
    assert (seen["verdict"], seen["action"], seen["evidence"]) == ("failed", "restart", ["TimeoutError: timed out"] * 3)


@pytest.mark.parametrize(
    ("ages", "answers", "verdict"),
    [
        ([3600], [WELL], "healthy"),
        ([3600], [DEAF, DEAF, WELL], "healthy"),
        ([599], [DEAF] * 3, "loading"),
        ([None], [], "stopped"),
        ([3600, None], [DEAF] * 3, "stopped"),
        # The runtime restarted it while it was looked at.
        ([3600, 2], [DEAF] * 3, "loading"),
    ],
)
def test_everything_else_is_left_alone(ages, answers, verdict):
    runtime = Runtime(*ages)
    assert look(runtime, *answers)["verdict"] == verdict
    assert runtime.restarted == []


def test_age_is_counted_from_the_start(monkeypatch):
    monkeypatch.setattr(health.time, "monotonic", lambda: 100.0)
    runtime = health.Systemd(lambda _command: "ActiveState=active\nActiveEnterTimestampMonotonic=40000000\n")
    assert runtime.running_seconds(TINY) == 60


def test_one_broken_instance_does_not_hide_the_others(monkeypatch, capsys, tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(TINY.dump())
    monkeypatch.setattr(health.instances, "names", lambda: ["a", "b"])
    load = health.instances.load
    monkeypatch.setattr(health.instances, "load", lambda name: load(name, str(tmp_path)))
    health.check_all(health.Settings(), Runtime(None))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["instance"], line["verdict"]) for line in lines] == [("a", "unknown"), ("b", "stopped")]


def test_healthy_at_once_is_not_worth_a_line(capsys):
    health.report("tiny", {"verdict": "healthy", "tries": 1})
    assert capsys.readouterr().out == ""
