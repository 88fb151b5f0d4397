# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as its action plugin calls it, against a hub that is not one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.inferops.vllm.plugins.modules import model
from doubles.hub import Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENTS = {"config.json": b"{}\n", "model.bin": b"weights", ".gitattributes": b"* text\n"}
WANTED = {"config.json": b"{}\n", "model.bin": b"weights"}
HOUSE = {"model": "org/house", "name": "org--house", "revision": COMMIT}

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "hub" / "org" / "house" / COMMIT
    folder.mkdir(parents=True)
    for path, data in CONTENTS.items():
        (folder / path).write_bytes(data)
    with Hub(tmp_path / "hub").start() as server:
        yield server
        server.shutdown()


@pytest.fixture
def call(tmp_path: Path, server: Hub, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one step of the module and return its result."""

    def call(action: str, *models: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {
            "models": [],
            "root": str(tmp_path / "models"),
            "python": sys.executable,
            "endpoint": server.url,
            "_step": {"do": action, "models": list(models), "incoming": options.pop("incoming", {})},
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
            **options,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            model.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert caught.value.code == (1 if result.get("failed") else 0)
        return result

    return call


def stored(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "models" / "org--house" / COMMIT
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop(".inferops.json", None)
    return files


def test_first_run_in_check_mode(call: Call, tmp_path: Path) -> None:
    (report,) = call("inspect", HOUSE, check=True)["models"]
    assert report == {
        "state": "absent",
        "changed": True,
        "files": 2,
        "bytes": 10,
        "fetch_files": 2,
        "fetch_bytes": 10,
    }
    assert not (tmp_path / "models").exists()


def test_check_mode_before_the_environment_is_installed(call: Call) -> None:
    result = call("inspect", HOUSE, check=True, python="/nowhere/python", owner="nobody-yet")
    assert result["models"] == [{"state": "absent", "changed": True}]


def test_the_hub_is_asked_once_it_has_to_be(call: Call, server: Hub) -> None:
    assert call("inspect", HOUSE)["models"] == [{"state": "absent", "changed": True}]
    assert server.requests == []


def test_stored(call: Call, tmp_path: Path, server: Hub) -> None:
    result = call("store", HOUSE)
    assert (result["missing"], result["fetch_files"], result["fetch_bytes"]) == ([], 2, 10)
    assert stored(tmp_path) == WANTED
    server.requests.clear()
    assert call("inspect", HOUSE)["models"][0]["changed"] is False
    assert call("store", HOUSE)["missing"] == []
    assert server.requests == []


def test_what_is_left_of_an_attempt_is_cleared_away(call: Call, tmp_path: Path) -> None:
    call("store", HOUSE)
    leftover = tmp_path / "models" / "org--house" / f".{COMMIT}.partial"
    leftover.mkdir()
    assert call("inspect", HOUSE)["models"][0]["changed"] is True
    call("store", HOUSE)
    assert not leftover.exists()


def test_modes_are_mended(call: Call, tmp_path: Path) -> None:
    call("store", HOUSE)
    file = tmp_path / "models" / "org--house" / COMMIT / "config.json"
    file.chmod(0o600)
    report = call("inspect", HOUSE)["models"][0]
    assert (report["state"], report["changed"]) == ("present", True)
    call("store", HOUSE)
    assert file.stat().st_mode & 0o777 == 0o644


def test_altered(call: Call, tmp_path: Path, server: Hub) -> None:
    server.faults.altered = ["model.bin"]
    result = call("store", HOUSE)
    assert result["msg"].startswith("model.bin arrived with SHA-256 ")
    assert result["msg"].endswith("it was altered on the way or at its source; nothing was stored, so run again")
    assert stored(tmp_path) == {}
    server.faults.altered = []
    server.requests.clear()
    assert call("store", HOUSE)["missing"] == []
    assert stored(tmp_path) == WANTED
    assert server.fetched("config.json") == 0


def test_gated(call: Call, tmp_path: Path, server: Hub) -> None:
    server.faults.gated = ["org/house"]
    assert "is gated and there is no token" in call("store", HOUSE)["msg"]
    assert stored(tmp_path) == {}
    result = call("store", HOUSE, _token="hf_right")
    assert result["missing"] == []
    assert "hf_right" not in json.dumps(result)
    assert "hf_right" not in Path(tmp_path, "models", "org--house", COMMIT, ".inferops.json").read_text()


def test_a_token_of_the_user_is_not_used(call: Call, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    server.faults.gated = ["org/house"]
    assert "is gated and there is no token" in call("store", HOUSE)["msg"]


def test_no_room(call: Call, tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((1, 1, 9, 9, 9, *status[5:])))
    assert "org--house needs 10 bytes more in" in call("store", HOUSE)["msg"]
    assert server.fetched("model.bin") == 0


def test_a_disk_that_fails(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert "(Input/output error): make room, or correct root" in call("store", HOUSE)["msg"].replace("[Errno 5] ", "")


def test_no_environment(call: Call) -> None:
    said = call("store", HOUSE, python="/nowhere/python")["msg"]
    assert said == "/nowhere/python does not exist: install vLLM's environment first, or correct python"


def test_a_python_that_says_nothing_of_use(call: Call, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat >/dev/null\necho out of order >&2\nexit 3\n")
    python.chmod(0o755)
    said = call("store", HOUSE, python=str(python))["msg"]
    assert said == "the download of org/house ended with status 3: out of order"


def test_unknown_owner(call: Call) -> None:
    said = call("store", HOUSE, owner="nobody-yet")["msg"]
    assert said == "owner 'nobody-yet' or group None is not known on this host: create it first"


def test_sent_by_the_controller(call: Call, tmp_path: Path) -> None:
    house = {
        "model": "/srv/house",
        "name": "house",
        "revision": "v1",
        "files": [
            {"path": "a", "size": 1, "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
            {"path": "b", "size": 1, "sha256": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"},
        ],
    }
    assert call("store", house)["missing"] == ["a", "b"]
    (tmp_path / "sent").write_text("b")
    assert call("store", house, incoming={"b": str(tmp_path / "sent")})["missing"] == ["a"]
    (tmp_path / "sent").write_text("a")
    assert call("store", house, incoming={"a": str(tmp_path / "sent")})["missing"] == []
    assert (tmp_path / "models" / "house" / "v1" / "a").read_text() == "a"


def test_without_its_action_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"models": []}), pytest.raises(SystemExit):
        model.main()
    assert "works through its action plugin" in json.loads(capsys.readouterr().out)["msg"]
