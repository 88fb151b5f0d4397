# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's halves of vllm_probe and vllm_drain: alone, and then in a real run on this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.plugins.action import ActionBase

from ansible_collections.inferops.vllm.plugins.action import vllm_drain, vllm_probe
from ansible_collections.inferops.vllm.plugins.plugin_utils.slices import SlicedAction
from doubles.node import Server

REPO = Path(__file__).resolve().parents[4]

Run = Callable[..., tuple[dict[str, Any], list[str], list[dict[str, Any]]]]


class Told(list[str]):
    """In place of Ansible's display."""

    display = list.append


class Task:
    args: ClassVar = {"names": ["tiny"]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(action, the module's returns, one a call) -> the result, what was shown, what the module was given."""

    def run(action: type[SlicedAction], *outcomes: dict[str, Any]) -> Any:
        made = action.__new__(action)
        given: list[dict[str, Any]] = []
        rest = list(outcomes)

        def execute(module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
            assert module_name == f"inferops.vllm.{action.__module__.rpartition('.')[2]}"
            assert task_vars["inventory_hostname"] == "node1"
            given.append(module_args)
            return rest.pop(0)

        monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
        made._execute_module, made._display, made._task = execute, Told(), Task()
        result = made.run(task_vars={"inventory_hostname": "node1"})
        assert not rest
        return result, list(made._display), given

    return run


def seen(state: str, evidence: str) -> dict[str, Any]:
    return {"changed": False, "instances": {"tiny": {"state": state, "evidence": evidence}}}


def test_progress_is_shown_and_handed_on(run: Run) -> None:
    result, told, given = run(
        vllm_probe.ActionModule,
        {**seen("loading", "loads for 9 s"), "_slice": {"tiny": 1}},
        {**seen("loading", "loads for 9 s"), "_slice": {"tiny": 2}},
        {**seen("loading", "loads for 29 s"), "_slice": {"tiny": 3}},
        seen("ready", "answers"),
    )
    assert result == seen("ready", "answers")
    assert told == ["node1: tiny is loading: loads for 9 s", "node1: tiny is loading: loads for 29 s"]
    assert [step["_slice"]["progress"] for step in given] == [{}, {"tiny": 1}, {"tiny": 2}, {"tiny": 3}]
    assert [step["_slice"]["seconds"] for step in given] == [3, 10, 10, 10]
    assert all(step["names"] == ["tiny"] for step in given)
    assert 0 <= given[0]["_slice"]["waited"] <= given[-1]["_slice"]["waited"]


@pytest.mark.parametrize("end", [{"failed": True, "msg": "no"}, {"unreachable": True, "msg": "no"}])
def test_failure_ends_it(run: Run, end: dict[str, Any]) -> None:
    result, _told, _given = run(vllm_probe.ActionModule, {**seen("down", "it is stopped"), "_slice": {}}, end)
    assert {**end, "changed": False} == result


def test_what_the_first_slice_changed_is_what_changed(run: Run) -> None:
    def found(changed: bool) -> dict[str, Any]:
        diff = {"before": "not drained" if changed else "drained", "after": "drained"}
        return {"changed": changed, "diff": diff, "instances": {"tiny": {"in_flight_text": "1 requests running"}}}

    result, told, _given = run(vllm_drain.ActionModule, {**found(True), "_slice": {"fresh": True}}, found(False))
    assert (result["changed"], result["diff"]) == (True, found(True)["diff"])
    assert told == ["node1: tiny is drained: 1 requests running"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "tiny")
    yield made
    made.end()


def test_in_a_run_of_ansible(tmp_path: Path, server: Server) -> None:
    directories = {"config_dir": str(tmp_path), "drain_dir": str(tmp_path / "drain")}
    tasks = [
        {
            "inferops.vllm.vllm_probe": {"wait": True, "timeout_seconds": 60, "config_dir": str(tmp_path)},
            "register": "probed",
        },
        {
            "inferops.vllm.vllm_drain": {**directories, "timeout_seconds": 60, "settle_seconds": 1},
            "register": "drained",
        },
        {"inferops.vllm.vllm_instance_info": {**directories}, "register": "info"},
        {
            "ansible.builtin.copy": {
                "content": "{{ [probed, drained, info] | to_json }}",
                "dest": str(tmp_path / "result.json"),
                "mode": "0600",
            },
            "no_log": True,
        },
    ]
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    server.start(SIM_LOAD_SECONDS="12")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", str(playbook)),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "localhost: tiny is loading: loads for" in done.stdout
    probed, drained, info = json.loads((tmp_path / "result.json").read_text())
    assert probed["instances"]["tiny"]["serves"] is True
    assert "_slice" not in probed
    assert (drained["changed"], drained["instances"]["tiny"]["in_flight"]["load"]) == (True, 0)
    assert info["instances"]["tiny"]["drain"]["drained"] is True
    assert info["instances"]["tiny"]["probe"]["serves"] is True
