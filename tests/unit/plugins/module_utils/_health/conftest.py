# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the agent share: a log that remembers, a runtime that obeys, keepers that look at nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health.gpus import Gpus
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Keeper, Node
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from doubles.node import control_group


class Log(list[dict[str, Any]]):
    """Called as the agent's log is."""

    def __call__(self, **fields: Any) -> None:
        self.append(fields)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for fields in self if fields.get("event") == event]


class FakeRuntime:
    """In place of systemd: notes what it is told, and fails when it is to."""

    def __init__(self) -> None:
        self.unit = Unit("running")
        self.done: list[tuple[str, str]] = []
        self.fails = False

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        return dict.fromkeys(names, self.unit)

    def processes(self, main: int) -> list[int]:
        return control_group(main)

    async def restart(self, name: str) -> None:
        self._note("restart", name)

    async def kill(self, name: str) -> None:
        self._note("kill", name)

    async def stop(self, name: str) -> None:
        self._note("stop", name)

    def _note(self, verb: str, name: str) -> None:
        self.done.append((verb, name))
        if self.fails:
            raise CommandFailed(f"systemctl {verb}: no")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Directories of a node."""
    for name in ("config", "run", "state", "drain"):
        (tmp_path / name).mkdir()
    return tmp_path


MakeKeeper = Callable[..., Keeper]


@pytest.fixture
def node(folder: Path, runtime: FakeRuntime) -> Node:
    return Node(lambda _instance: runtime, *(str(folder / name) for name in ("config", "state", "drain")))


@pytest.fixture
def gpus(log: Log) -> Gpus:
    """Of instances that were given none."""
    return Gpus(dict, log)


@pytest.fixture
def make_keeper(folder: Path, node: Node, log: Log, gpus: Gpus) -> MakeKeeper:
    """make_keeper(name, tell=, may_act=, given=, **settings) -> a keeper of an instance without a server."""

    def make(
        name: str = "tiny",
        tell: Callable[[Any], None] = lambda _event: None,
        may_act: Callable[[], bool] = lambda: True,
        given: tuple[int, ...] = (),
        **settings: Any,
    ) -> Keeper:
        instance = Instance(
            name=name,
            port=8000,
            served_model_name="m",
            user="vllm",
            root="/o",
            config_dir=str(folder / "config"),
            run_dir=str(folder / "run"),
            gpus=list(given),
        )
        return Keeper(instance, Settings(**settings), node, log, tell, may_act, gpus)

    return make
