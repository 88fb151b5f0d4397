# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node gets the very files of the collection, whole, and commands that run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible_collections.inferops.vllm.plugins import module_utils
from ansible_collections.inferops.vllm.plugins.modules import node_tools

SOURCES = Path(next(iter(module_utils.__path__)))


def test_every_file_of_the_packages_is_shipped(call, tmp_path):
    call(node_tools, root=str(tmp_path))
    for package in ("_serving", "_health"):
        shipped = {path.name: path.read_text() for path in (tmp_path / "lib/inferops_vllm" / package).glob("*.py")}
        assert shipped == {path.name: path.read_text() for path in (SOURCES / package).glob("*.py")}


def test_second_run_changes_nothing(call, tmp_path):
    assert call(node_tools, root=str(tmp_path))["changed"] is True
    result = call(node_tools, root=str(tmp_path))
    assert (result["changed"], result["written"], result["removed"]) == (False, [], [])


def test_check_mode_writes_nothing(call, tmp_path):
    assert call(node_tools, check=True, root=str(tmp_path / "opt"))["changed"] is True
    assert not (tmp_path / "opt").exists()


def test_damaged_and_surplus_files_are_mended(call, tmp_path):
    call(node_tools, root=str(tmp_path))
    package = tmp_path / "lib/inferops_vllm/_serving"
    (package / "probe.py").write_text("")
    (package / "old.py").write_text("")
    (tmp_path / "bin/vllm-instance").chmod(0o600)
    result = call(node_tools, root=str(tmp_path))
    assert result["written"] == [str(tmp_path / "bin/vllm-instance"), str(package / "probe.py")]
    assert result["removed"] == [str(package / "old.py")]


def test_all_of_it_is_removed_and_nothing_of_others(call, tmp_path):
    call(node_tools, root=str(tmp_path))
    (tmp_path / "lib/inferops_vllm/__pycache__").mkdir()
    others = [tmp_path / "bin/theirs", tmp_path / "lib/theirs"]
    for path in others:
        path.touch()
    there = sorted(tmp_path.rglob("*"))
    foretold = call(node_tools, check=True, root=str(tmp_path), state="absent")
    assert sorted(tmp_path.rglob("*")) == there
    assert call(node_tools, root=str(tmp_path), state="absent") == foretold
    assert str(tmp_path / "bin/vllm-instance") in foretold["removed"]
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == others
    assert call(node_tools, root=str(tmp_path), state="absent")["changed"] is False


def test_commands_run(call, tmp_path):
    call(node_tools, root=str(tmp_path))
    for command in ("vllm-instance", "vllm-health-check"):
        shown = subprocess.run([tmp_path / "bin" / command, "--help"], capture_output=True, text=True, check=True)
        assert command in shown.stdout


def test_unknown_instance_is_one_sentence(call, tmp_path):
    call(node_tools, root=str(tmp_path))
    done = subprocess.run(
        [tmp_path / "bin/vllm-instance", "check", "nobody"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vllm-instance: nobody: ")
    assert len(done.stderr.splitlines()) == 1
