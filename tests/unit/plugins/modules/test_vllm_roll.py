# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a roll has to go through on a node: at first, when it is resumed, and beside another roll."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.action import vllm_roll as action
from ansible_collections.inferops.vllm.plugins.module_utils import _roll
from ansible_collections.inferops.vllm.plugins.module_utils._health import drain
from ansible_collections.inferops.vllm.plugins.module_utils._serving import generations, process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.modules import vllm_roll

HOLDER = {"user": "ops", "host": "bastion", "boot": "a", "pid": 4242, "start": 7}
OTHER = {**HOLDER, "host": "laptop"}


class Node:
    """Instances a and b, whose servers run with what they shall run with."""

    def __init__(self, folder: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.config_dir = str(folder / "instances")
        self._call = call
        self.stale: set[str] = set()
        self.started = dict.fromkeys("ab", 0.0)
        Path(self.config_dir).mkdir()
        for name in "ab":
            self.configure(name, "one")
        monkeypatch.setattr(generations, "main_pid", lambda found: ord(found.name) if found.name in self.started else 0)
        monkeypatch.setattr(generations, "is_stale", lambda found, _config, _pid: found.name in self.stale)
        monkeypatch.setattr(process, "living", self._living)

    def _living(self, pid: int) -> process.Stat | None:
        if not pid:
            return None
        ticks = int(self.started[chr(pid)] * process.TICKS_PER_SECOND)
        return process.Stat("vllm", "S", ticks, 0.0, 1)

    def configure(self, name: str, text: str, kind: str = "") -> None:
        folder = Path(generations.directory(kind, self.config_dir) if kind else self.config_dir)
        folder.mkdir(exist_ok=True)
        described = Instance(name, 8000, text, "vllm", "/opt/vllm", config_dir=self.config_dir)
        (folder / f"{name}.yaml").write_text(text)
        (folder / f"{name}.json").write_text(described.dump())

    def restart(self, name: str) -> None:
        generations.activate(name, self.config_dir)
        self.started[name] = time.clock_gettime(time.CLOCK_BOOTTIME) + 1

    def in_use(self, name: str) -> str:
        return generations.texts(name, self.config_dir)[0]

    def roll(self, state: str, **arguments: Any) -> dict[str, Any]:
        options = {
            "_holder": HOLDER,
            "config_dir": self.config_dir,
            "drain_dir": str(self.folder / "drain"),
            "path": str(self.folder / "roll.json"),
            **arguments,
        }
        result: dict[str, Any] = self._call(vllm_roll, state=state, **options)
        return result

    def begin(self, verb: str, **arguments: Any) -> tuple[list[str], list[str]]:
        result = self.roll("begun", verb=verb, **arguments)
        assert "todo" in result, result
        return result["todo"], result["restart"]


@pytest.fixture
def node(tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    return Node(tmp_path, call, monkeypatch)


def test_apply_goes_through_what_differs(node: Node) -> None:
    assert node.begin("apply") == ([], [])
    node.configure("a", "two", generations.STAGED)
    assert node.begin("apply") == (["a"], ["a"])
    node.stale.add("b")
    assert node.begin("apply") == (["a", "b"], ["a", "b"])


def test_restart_leaves_alone_what_is_staged(node: Node) -> None:
    node.configure("b", "two", generations.STAGED)
    assert node.begin("restart") == (["a", "b"], ["a", "b"])
    node.restart("a")
    node.restart("b")
    # Resumed, it has to prove both, and to restart neither.
    assert node.begin("restart") == (["a", "b"], [])


def test_what_is_known_to_be_stale_counts_in_check_mode_too(node: Node) -> None:
    assert node.begin("apply", stale=["b"], check=True) == (["b"], ["b"])
    assert not (node.folder / "roll.json").exists()


def test_restart_goes_through_all_and_through_none_twice(node: Node) -> None:
    assert node.begin("restart") == (["a", "b"], ["a", "b"])
    node.restart("a")
    # Interrupted here, the next run has to prove a, and to restart b.
    assert node.begin("restart") == (["a", "b"], ["b"])
    node.roll("done", names=["a"])
    assert node.begin("restart") == (["b"], ["b"])
    node.restart("b")
    node.roll("done", names=["b"])
    assert node.begin("restart") == ([], [])
    node.roll("ended")
    assert node.begin("restart") == (["a", "b"], ["a", "b"])


def test_stopped_server_is_started(node: Node) -> None:
    node.begin("restart")
    del node.started["a"]
    assert node.begin("restart") == (["a", "b"], ["a", "b"])


def test_interrupted_restart_is_begun_anew_when_it_is_old(node: Node) -> None:
    node.begin("restart")
    node.restart("a")
    assert node.begin("restart", resume_seconds=0) == (["a", "b"], ["a", "b"])


def test_apply_finishes_what_an_interrupted_restart_left(node: Node) -> None:
    node.begin("restart", names=["a"])
    assert node.begin("apply") == (["a"], ["a"])
    node.restart("a")
    assert node.begin("apply") == (["a"], [])


def test_rollback_goes_back_once(node: Node) -> None:
    for text in ("one", "two"):
        node.configure("a", text)
        generations.approve("a", node.config_dir)
    result = node.roll("begun", verb="rollback")
    assert (result["todo"], result["restart"], result["missing"]) == (["a"], ["a"], ["b"])
    node.restart("a")
    assert node.in_use("a") == "one"
    node.roll("done", names=["a"])
    # Interrupted before its end, it does not go forward again.
    assert node.begin("rollback") == ([], [])


def test_restored_is_what_served(node: Node) -> None:
    generations.approve("a", node.config_dir)
    node.configure("a", "bad")
    assert node.roll("restored", names=["a", "b"])["restored"] == ["a"]
    node.restart("a")
    assert node.in_use("a") == "one"
    assert node.roll("restored", names=["a"])["restored"] == []


def test_done_keeps_the_configuration_unless_told_otherwise(node: Node) -> None:
    node.begin("restart")
    node.roll("done", names=["a"], approve=False)
    assert not generations.has(generations.GOOD, "a", node.config_dir)
    node.roll("done", names=["b"])
    assert generations.has(generations.GOOD, "b", node.config_dir)


def test_one_roll_at_a_time(node: Node) -> None:
    node.begin("restart")
    result = node.roll("begun", verb="restart", _holder=OTHER)
    assert result["failed"]
    assert result["held_by"] == HOLDER
    assert "a roll of ops@bastion (pid 4242) is under way" in result["msg"]
    assert node.begin("restart", _holder=OTHER, take_over=True)[0] == ["a", "b"]


@pytest.mark.parametrize("end", ["lease", "ended"])
def test_a_roll_that_is_gone_holds_nobody_up(node: Node, end: str) -> None:
    node.begin("restart")
    if end == "ended":
        node.roll("ended")
    assert node.begin("restart", _holder=OTHER, lease_seconds=3600 if end == "ended" else 0)[0] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verb": "restart"}', '{"holder": 3}'])
def test_damaged_note_is_none(node: Node, text: str) -> None:
    (node.folder / "roll.json").write_text(text)
    assert node.begin("restart")[0] == ["a", "b"]


def test_what_a_person_has_drained_is_told(node: Node) -> None:
    drain.set_flag("a", "the fan is loud", str(node.folder / "drain"))
    drain.set_flag("b", "roll", str(node.folder / "drain"))
    assert node.roll("begun", verb="restart")["kept_out"] == {"a": "the fan is loud"}


def test_what_an_earlier_roll_has_left_out_is_told(node: Node) -> None:
    folder = str(node.folder / "drain")
    assert node.roll("begun", verb="restart")["left_out"] is False
    drain.set_flag("a", "roll", folder)
    assert node.roll("begun", verb="restart")["left_out"] is False
    drain.set_flag("b", "roll", folder)
    assert node.roll("begun", verb="restart")["left_out"] is True


def test_holder_is_this_process_and_known_to_live() -> None:
    held_by = {**action.holder(), "pid": 1, "start": 0}
    seen = process.stat(1)
    assert seen
    assert action.is_gone(held_by)
    assert not action.is_gone({**held_by, "start": seen.start_ticks})
    assert action.is_gone({**held_by, "boot": "earlier"})
    # What another controller does is not known here.
    assert not action.is_gone({**held_by, "host": "elsewhere"})
    assert not action.is_gone(None)


def test_note_survives_whole(node: Node) -> None:
    node.begin("restart")
    note = _roll.read(str(node.folder / "roll.json"))
    assert note is not None
    assert (note.verb, str(note.holder), note.todo) == ("restart", "ops@bastion (pid 4242)", ["a", "b"])
