# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments appear whole or not at all. uv is a stand-in: a script that makes what uv would."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.modules import venv

UV = """#!/bin/sh
# uv's stand-in: notes its environment and makes the folders that uv would.
env >> "{log}"
echo "uv $*" >> "{log}"
case "$2" in
  venv) for last; do :; done; mkdir -p "$last/bin"; cp "{python}" "$last/bin/python" ;;
  pip) {sync} ;;
  --version) ;;
esac
[ "$1" != --version ] || echo "uv 1.2.3"
"""
PYTHON = """#!/bin/sh
echo '{"vllm": "%s"}'
"""


class Host:
    """A root directory with uv in place, and the arguments of a call."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "opt"
        self.log = folder / "uv.log"
        self.python = folder / "python"
        self.requirements = folder / "requirements.txt"
        self.requirements.write_text("vllm==0.33.0\n")
        self.installs("0.33.0")
        self.uv()

    def uv(self, sync: str = ":") -> None:
        self._program(self.root / "uv/bin/uv", UV.format(log=self.log, python=self.python, sync=sync))

    def installs(self, release: str) -> None:
        self._program(self.python, PYTHON % release)

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "version": "0.33.0",
            "uv_version": "1.2.3",
            "requirements": str(self.requirements),
            "requirements_checksum": "a" * 40,
            "cache_dir": str(self.root / "cache"),
            **changes,
        }

    @property
    def current(self) -> str:
        return os.readlink(self.root / "current")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_installs_marks_and_switches(call, host):
    result = call(venv, **host.arguments())
    assert (result["changed"], result["installed"], result["previous"]) == (True, True, "")
    assert host.current == "venvs/0.33.0"
    marker = json.loads((host.root / "venvs/0.33.0/.inferops.json").read_text())
    assert marker["requirements_checksum"] == "a" * 40
    assert "--require-hashes" in host.log.read_text()
    assert "--compile-bytecode" in host.log.read_text()


def test_second_run_changes_nothing(call, host):
    call(venv, **host.arguments())
    host.log.unlink()
    assert call(venv, **host.arguments())["changed"] is False
    assert not host.log.exists()


def test_check_mode_only_says(call, host):
    result = call(venv, check=True, **host.arguments())
    assert result["changed"] is True
    assert result["diff"]["after"]["current"].endswith("venvs/0.33.0")
    assert not (host.root / "venvs").exists()


def test_interrupted_installation_is_done_again(call, host):
    host.uv(sync="echo half > $6/../../half; echo disk full >&2; exit 2")
    result = call(venv, **host.arguments())
    assert result["failed"] is True
    assert "disk full" in result["msg"]
    assert not (host.root / "current").exists()
    left = host.root / "venvs/0.33.0/left-over"
    left.write_text("")
    host.uv()
    assert call(venv, **host.arguments())["installed"] is True
    assert not left.exists()


def test_another_lock_of_the_release_leaves_the_first_alone(call, host):
    call(venv, **host.arguments())
    result = call(venv, **host.arguments(requirements_checksum="b" * 40))
    assert host.current == "venvs/0.33.0+bbbbbbbb"
    assert result["previous"].endswith("venvs/0.33.0")
    assert json.loads((host.root / "venvs/0.33.0/.inferops.json").read_text())["requirements_checksum"] == "a" * 40


def test_going_back_is_a_switch(call, host):
    call(venv, **host.arguments())
    host.installs("0.34.0")
    call(venv, **host.arguments(version="0.34.0", requirements_checksum="c" * 40))
    host.log.unlink()
    result = call(venv, **host.arguments())
    assert (result["changed"], result["installed"]) == (True, False)
    assert host.current == "venvs/0.33.0"
    assert not host.log.exists()


def test_lock_of_another_release_is_refused(call, host):
    host.installs("0.32.0")
    result = call(venv, **host.arguments())
    assert "installs vLLM 0.32.0, not the wanted 0.33.0" in result["msg"]
    assert not (host.root / "current").exists()


def test_mirrors_reach_uv_by_its_environment_alone(call, host):
    secret = "https://user:geheim@mirror.example/simple"
    result = call(venv, **host.arguments(index_url=secret, find_links=["/srv/wheels"], torch_backend="cpu"))
    lines = host.log.read_text().splitlines()
    assert f"UV_DEFAULT_INDEX={secret}" in lines
    assert "UV_FIND_LINKS=/srv/wheels" in lines
    commands = [line for line in lines if line.startswith("uv ")]
    assert any("--torch-backend cpu" in line for line in commands)
    assert "geheim" not in "".join(commands)
    assert "geheim" not in json.dumps(result)
