# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime systemd: what an instance's unit has for itself, and which files its server reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import command, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import Systemd


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemctl was told."""
    told: list[str] = []

    async def run(*words: str, **_arguments: float) -> str:
        told.append(" ".join(words[1:]))
        return ""

    monkeypatch.setattr(runtime, "run", run)
    monkeypatch.setattr(Systemd, "UNIT_DIR", str(tmp_path))
    monkeypatch.setattr(Systemd, "CONFIG_DIR", str(tmp_path))
    return told


def keep(folder: Path, settings: dict[str, list[str]]) -> None:
    (folder / "a.json").write_text(Instance("a", 1, "a", "vllm", "/opt/vllm", settings=settings).dump())
    asyncio.run(Systemd().keep("a"))


def test_settings_are_a_drop_in_that_is_read_before_the_start(ran: list[str], tmp_path: Path) -> None:
    keep(tmp_path, {"DeviceAllow": ["/dev/a", "/dev/b"], "MemoryMax": ["64G"]})
    text = (tmp_path / "vllm@a.service.d/inventory.conf").read_text()
    assert text == "[Service]\nDeviceAllow=/dev/a\nDeviceAllow=/dev/b\nMemoryMax=64G\n"
    assert ran == ["daemon-reload", "enable vllm@a.service", "start --no-block vllm@a.service"]


@pytest.mark.usefixtures("ran")
def test_without_settings_there_is_no_drop_in(tmp_path: Path) -> None:
    keep(tmp_path, {"MemoryMax": ["64G"]})
    keep(tmp_path, {})
    assert not (tmp_path / "vllm@a.service.d").exists()


@pytest.mark.usefixtures("ran")
def test_what_others_have_set_stays(tmp_path: Path) -> None:
    keep(tmp_path, {"MemoryMax": ["64G"]})
    (tmp_path / "vllm@a.service.d/override.conf").write_text("[Service]\nNice=1\n")
    keep(tmp_path, {})
    assert [path.name for path in (tmp_path / "vllm@a.service.d").iterdir()] == ["override.conf"]


def test_drop_in_goes_with_the_instance_once_it_has_stopped(ran: list[str], tmp_path: Path) -> None:
    keep(tmp_path, {"TimeoutStopSec": ["600"]})
    ran.clear()
    asyncio.run(Systemd().drop("a", 5))
    assert ran == ["disable vllm@a.service", "stop vllm@a.service", "reset-failed vllm@a.service", "daemon-reload"]
    assert not (tmp_path / "vllm@a.service.d").exists()


@pytest.mark.parametrize(("verb", "seen"), [("run", True), ("check", False)])
def test_server_reads_its_credentials_and_root_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, seen: bool
) -> None:
    """A server sees its own files alone."""
    (tmp_path / "a.json").write_text(Instance("a", 1, "a", "vllm", "/opt/vllm").dump())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if seen:
        assert command.look_up("a", verb).config_path == f"{tmp_path}/a.yaml"
    else:
        with pytest.raises(FileNotFoundError, match="/etc/vllm/instances"):
            command.look_up("a", verb)
