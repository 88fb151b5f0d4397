# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_instance has runtimes do, in which order, and what it foretells."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import generations
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from ansible_collections.inferops.vllm.plugins.modules import vllm_instance


class Fake:
    """A runtime that notes what it is told."""

    def __init__(self, name: str, told: list[tuple[str, str, str]]) -> None:
        self.name = name
        self.told = told
        self.instances: dict[str, tuple[str, bool]] = {}
        """State of each, and whether it starts at boot."""

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        return {name: Unit(self.instances.get(name, ("stopped", False))[0]) for name in names}

    async def kept(self) -> dict[str, bool]:
        return {name: boots for name, (_state, boots) in self.instances.items()}

    async def keep(self, name: str) -> None:
        self.told.append((self.name, "keep", name))
        self.instances[name] = ("running", True)

    async def renew(self, name: str, _timeout_seconds: float) -> None:
        self.told.append((self.name, "renew", name))

    async def halt(self, name: str, _timeout_seconds: float) -> None:
        self.told.append((self.name, "halt", name))

    async def drop(self, name: str, _timeout_seconds: float) -> None:
        self.told.append((self.name, "drop", name))
        del self.instances[name]


class Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, str, str]] = []
        self.runtimes = {name: Fake(name, self.told) for name in serving.RUNTIMES}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path)
    monkeypatch.setattr(vllm_instance.runtime, "named", made.runtimes.__getitem__)
    return made


@pytest.fixture
def apply(call: Any, node: Node) -> Any:
    def run(state: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        return call(
            vllm_instance, check=check, **{"names": ["a"], "state": state, "config_dir": str(node.folder), **arguments}
        )

    return run


def test_starts_what_nobody_keeps_and_then_changes_nothing(apply: Any, node: Node) -> None:
    result = apply("started", runtime="supervisor")
    assert (result["changed_instances"], node.told) == (["a"], [("supervisor", "keep", "a")])
    assert result["diff"] == {"before": {"kept_by": {"a": []}}, "after": {"kept_by": {"a": ["supervisor"]}}}
    assert apply("started", runtime="supervisor")["changed"] is False


@pytest.mark.parametrize("present", [("stopped", True), ("failed", True), ("running", False)])
def test_starts_what_does_not_run_or_not_at_boot(apply: Any, node: Node, present: tuple[str, bool]) -> None:
    node.runtimes["systemd"].instances["a"] = present
    assert apply("started", runtime="systemd")["changed_instances"] == ["a"]


def test_runtime_comes_from_the_configuration(apply: Any, node: Node) -> None:
    described = '{"name": "a", "port": 1, "served_model_name": "m", "user": "u", "root": "/o", "runtime": "supervisor"}'
    (node.folder / "a.json").write_text(described)
    apply("restarted")
    assert node.told == [("supervisor", "renew", "a")]


@pytest.mark.parametrize(("staged", "keeper"), [(True, "supervisor"), (False, "tmux")])
def test_restarts_with_what_is_staged_if_asked(apply: Any, node: Node, staged: bool, keeper: str) -> None:
    config_dir = node.folder / "instances"
    described = '{"name": "a", "port": 1, "served_model_name": "m", "user": "u", "root": "/o", "runtime": "%s"}'
    for folder, runtime in ((config_dir, "tmux"), (node.folder / generations.STAGED, "supervisor")):
        folder.mkdir()
        (folder / "a.json").write_text(described % runtime)
        (folder / "a.yaml").touch()
    apply("restarted", staged=staged, config_dir=str(config_dir))
    assert node.told == [(keeper, "renew", "a")]
    assert generations.has(generations.STAGED, "a", str(config_dir)) is not staged


def test_what_serves_under_another_runtime_is_left_by_started_and_moved_by_restarted(apply: Any, node: Node) -> None:
    node.runtimes["systemd"].instances["a"] = ("running", True)
    assert (apply("started", runtime="supervisor")["changed"], node.told) == (False, [])
    apply("restarted", runtime="supervisor")
    assert node.told == [("systemd", "drop", "a"), ("supervisor", "renew", "a")]


def test_what_is_stopped_under_another_runtime_is_moved(apply: Any, node: Node) -> None:
    node.runtimes["systemd"].instances["a"] = ("stopped", True)
    apply("started", runtime="supervisor")
    assert node.told == [("systemd", "drop", "a"), ("supervisor", "keep", "a")]


def test_stops_wherever_it_runs(apply: Any, node: Node) -> None:
    node.runtimes["supervisor"].instances["a"] = ("running", True)
    assert apply("stopped")["changed_instances"] == ["a"]
    assert node.told == [("supervisor", "halt", "a")]
    node.runtimes["supervisor"].instances["a"] = ("stopped", True)
    assert apply("stopped")["changed"] is False


def test_removes_it_everywhere_and_its_files(apply: Any, node: Node) -> None:
    for fake in node.runtimes.values():
        fake.instances["a"] = ("stopped", True)
    (node.folder / "a.yaml").touch()
    assert apply("absent")["changed_instances"] == ["a"]
    assert node.told == [(name, "drop", "a") for name in node.runtimes]
    assert list(node.folder.iterdir()) == []
    assert apply("absent")["changed"] is False


@pytest.mark.parametrize("state", ["started", "restarted", "stopped", "absent"])
def test_check_mode_foretells_and_does_nothing(apply: Any, node: Node, state: str) -> None:
    node.runtimes["systemd"].instances["a"] = ("running", False)
    (node.folder / "a.yaml").touch()
    assert apply(state, check=True, runtime="systemd")["changed_instances"] == ["a"]
    assert (node.told, (node.folder / "a.yaml").exists()) == ([], True)


def test_runtime_that_fails_is_told(apply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(_self: Fake, _name: str) -> None:
        raise CommandFailed("supervisord refuses addProcessGroup: BAD_NAME")

    monkeypatch.setattr(Fake, "keep", keep)
    assert apply("started", runtime="supervisor")["msg"] == "supervisord refuses addProcessGroup: BAD_NAME"
