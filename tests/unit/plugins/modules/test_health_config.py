# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the health check on their way to a node: checked first, for root alone, without secrets in a diff."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.filter.health_check_error import FilterModule, health_check_error
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings, load
from ansible_collections.inferops.vllm.plugins.modules import health_config

Call = Callable[..., dict[str, Any]]
HOOK = {"events": ["restart"], "url": "https://alerts.example/?token=geheim"}
SENTENCE = (
    "health_check_look_seconds is -1, not a number of seconds above 0 and of a year at most:"
    " write a number of seconds above 0 and of a year at most"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vllm" / "health.json"


def test_settings_are_written_for_root_alone(call: Call, path: Path) -> None:
    settings = {"look_seconds": 3.0, "hooks": [HOOK]}
    first = call(health_config, settings=settings, path=str(path))
    assert (first["changed"], first["path"]) == (True, str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    written = load(str(path))
    assert (written.look_seconds, written.hooks[0].url) == (3.0, HOOK["url"])
    assert call(health_config, settings=settings, path=str(path))["changed"] is False
    assert [entry.name for entry in path.parent.iterdir()] == ["health.json"]


def test_mode_is_mended(call: Call, path: Path) -> None:
    call(health_config, settings={}, path=str(path))
    path.chmod(0o644)
    assert call(health_config, settings={}, path=str(path), check=True)["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o644
    assert call(health_config, settings={}, path=str(path))["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o600


def test_check_mode_writes_nothing(call: Call, path: Path) -> None:
    assert call(health_config, settings={}, path=str(path), check=True)["changed"] is True
    assert not path.parent.exists()


def test_diff_shows_what_changes_and_no_hook(call: Call, path: Path) -> None:
    call(health_config, settings={"agent_port": 9410, "hooks": [HOOK]}, path=str(path))
    hooks = [HOOK, {"events": ["quarantine"], "command": ["notify", "geheim"]}]
    result = call(health_config, settings={"agent_port": 9411, "hooks": hooks}, path=str(path))
    assert json.loads(result["diff"]["before"]) == {"agent_port": 9410, "hooks": "1 of them"}
    assert json.loads(result["diff"]["after"]) == {"agent_port": 9411, "hooks": "2 of them"}
    assert "geheim" not in str(result["diff"])


def test_changed_secret_is_a_change_that_the_diff_does_not_show(call: Call, path: Path) -> None:
    call(health_config, settings={"hooks": [HOOK]}, path=str(path))
    result = call(health_config, settings={"hooks": [{**HOOK, "url": "https://alerts.example/?neu"}]}, path=str(path))
    assert result["changed"] is True
    assert result["diff"]["before"] == result["diff"]["after"]


@pytest.mark.parametrize("present", ["", "no JSON", "[]", "7", '{"hooks": 7}', "\udcff"])
def test_whatever_lies_there_is_replaced(call: Call, path: Path, present: str) -> None:
    path.parent.mkdir()
    path.write_bytes(present.encode(errors="surrogateescape"))
    assert call(health_config, settings={}, path=str(path))["changed"] is True
    assert load(str(path)) == Settings()


@pytest.mark.parametrize("check", [False, True])
def test_wrong_settings_change_nothing(call: Call, path: Path, check: bool) -> None:
    call(health_config, settings={"look_seconds": 2}, path=str(path))
    before = path.read_text()
    result = call(health_config, settings={"look_seconds": -1}, path=str(path), check=check)
    assert (result["failed"], result["msg"]) == (True, SENTENCE)
    assert path.read_text() == before


def test_filter_says_the_same_before_a_host_is_touched() -> None:
    assert health_check_error({"look_seconds": -1}) == SENTENCE
    assert health_check_error({"look_seconds": 2.0, "hooks": [HOOK]}) == ""
    assert FilterModule().filters() == {"health_check_error": health_check_error}


def test_filter_keeps_secrets() -> None:
    sentence = health_check_error({"hooks": [{"events": ["restart"], "url": "geheim"}]})
    assert sentence.startswith("health_check_hooks[0].url is not an address")
    assert "geheim" not in sentence
