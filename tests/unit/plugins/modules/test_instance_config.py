# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What instance_config writes, shows, refuses, and says of servers that run with something older."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.modules import instance_config

TINY: dict[str, Any] = {"name": "tiny", "port": 8000, "model": "/srv"}


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(instance_config.generations, "main_pid", lambda _described: 0)
    monkeypatch.setattr(serving.Instance, "run_dir", str(tmp_path / "run"), raising=False)
    return {
        "config_dir": str(tmp_path / "instances"),
        "root": str(tmp_path / "opt"),
        "user": getpass.getuser(),
        "instances": [TINY],
    }


def config(arguments: dict[str, Any], name: str = "tiny") -> dict[str, Any]:
    return serving.load_config((Path(arguments["config_dir"]) / f"{name}.yaml").read_text())


def test_writes_what_the_server_and_the_tools_read(call, arguments):
    arguments["instances"] = [{**TINY, "args": {"max-model-len": 2048}, "gpus": [1, 2], "env": {"A": 1}}]
    result = call(instance_config, **arguments, default_args={"max-model-len": 1, "seed": 3}, environment={"A": "0"})
    assert result["changed_instances"] == ["tiny"]
    assert config(arguments) == {
        "model": "/srv",
        "served-model-name": ["tiny"],
        "host": "0.0.0.0",
        "port": 8000,
        "max-model-len": 2048,
        "seed": 3,
    }
    described = serving.load("tiny", arguments["config_dir"])
    assert described.environment == {"A": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,2"}
    assert (described.gpus, described.gpu_memory_share) == ([1, 2], 0.92)
    assert described.served_model_name == "tiny"


def test_second_run_changes_nothing(call, arguments):
    call(instance_config, **arguments)
    result = call(instance_config, **arguments)
    assert (result["changed"], result["changed_instances"], result["diff"]) == (False, [], [])


def test_check_mode_writes_nothing_and_shows_all(call, arguments):
    result = call(instance_config, check=True, **{**arguments, "user": "nobody-by-that-name"})
    assert result["changed"] is True
    assert [entry["after_header"].rpartition("/")[2] for entry in result["diff"]] == ["tiny.yaml", "tiny.json"]
    assert not Path(arguments["config_dir"]).exists()


def test_keys_are_masked_and_their_file_is_closed(call, arguments):
    result = call(instance_config, **arguments, api_keys=["geheim-1", "geheim-2"])
    path = Path(arguments["config_dir"]) / "tiny.yaml"
    assert config(arguments)["api-key"] == ["geheim-1", "geheim-2"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "geheim" not in json.dumps(result)
    assert (Path(arguments["config_dir"]) / "tiny.json").stat().st_mode & 0o777 == 0o640


def test_hub_token_is_masked_and_its_file_is_closed(call, arguments):
    result = call(instance_config, **arguments, hub_token="hf_geheim")
    assert config(arguments)["hf-token"] == "hf_geheim"
    assert (Path(arguments["config_dir"]) / "tiny.yaml").stat().st_mode & 0o777 == 0o600
    assert "geheim" not in json.dumps(result)


@pytest.mark.parametrize(("runtime", "known"), [("systemd", True), ("tmux", False)])
def test_settings_of_a_unit_in_the_words_of_systemd(call, arguments, runtime, known):
    settings = {"MemoryMax": "64G", "Nice": 5, "DeviceAllow": ["/dev/a", "/dev/b"], "MemoryDenyWriteExecute": True}
    arguments["instances"] = [{**TINY, "systemd": settings}]
    call(instance_config, **arguments, runtime=runtime)
    described = serving.load("tiny", arguments["config_dir"])
    assert described.settings == (
        {
            "MemoryMax": ["64G"],
            "Nice": ["5"],
            "DeviceAllow": ["/dev/a", "/dev/b"],
            "MemoryDenyWriteExecute": ["yes"],
        }
        if known
        else {}
    )


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        ("/srv", {}, ["tiny"]),
        ("./models/tiny", {}, ["tiny"]),
        ("~/models/tiny", {}, ["tiny"]),
        ("org/big", {}, ["org/big"]),
        ("org/big", {"served-model-name": "short"}, ["short"]),
        ("org/big", {"served-model-name": ["a", "b"]}, ["a", "b"]),
    ],
)
def test_served_names(call, arguments, model, args, expected):
    arguments["instances"] = [{**TINY, "model": model, "args": args}]
    call(instance_config, **arguments, model_paths={"tiny": "/var/lib/x"})
    assert config(arguments)["served-model-name"] == expected
    assert config(arguments)["model"] == "/var/lib/x"


def test_model_without_a_directory_is_refused(call, arguments):
    arguments["instances"] = [{**TINY, "model": "org/big"}]
    result = call(instance_config, **arguments)
    assert (
        "instance tiny: the model org/big has no directory on this node: run the role model_store first"
        in result["msg"]
    )
    assert not (Path(arguments["config_dir"]) / "tiny.yaml").exists()


def test_surplus_names_what_the_inventory_no_longer_has(call, arguments):
    call(instance_config, **{**arguments, "instances": [TINY, {**TINY, "name": "old", "port": 8001}]})
    assert call(instance_config, **arguments)["surplus"] == ["old"]


class TestStale:
    @pytest.fixture(autouse=True)
    def server(self, arguments, monkeypatch, tmp_path, call):
        """A server that was started with the present configuration."""
        monkeypatch.setattr(instance_config.generations, "main_pid", lambda _described: 42)
        monkeypatch.setattr(serving.Instance, "record_path", str(tmp_path / "record.json"))
        call(instance_config, **arguments)
        texts = [(Path(arguments["config_dir"]) / f"tiny.{suffix}").read_text() for suffix in ("yaml", "json")]
        venv = str(Path(arguments["root"], "current").resolve())
        self.record = tmp_path / "record.json"
        self.record.write_text(json.dumps({"pid": 42, "digest": serving.digest(*texts), "venv": venv}))

    def test_present_configuration_is_not_stale(self, call, arguments):
        assert call(instance_config, **arguments)["stale"] == []

    @pytest.mark.parametrize(
        "change",
        [
            {"default_args": {"seed": 1}},
            {"environment": {"A": "1"}},
            {"unit_checksum": "another"},
            {"runtime": "supervisor"},
        ],
    )
    def test_another_configuration_is_also_in_check_mode(self, call, arguments, change):
        assert call(instance_config, check=True, **arguments, **change)["stale"] == ["tiny"]

    def test_stays_stale_until_restarted(self, call, arguments):
        for _attempt in range(2):
            assert call(instance_config, **arguments, default_args={"seed": 1})["stale"] == ["tiny"]

    def test_switched_environment_is(self, call, arguments):
        (Path(arguments["root"]) / "venvs/new").mkdir(parents=True)
        (Path(arguments["root"]) / "current").symlink_to("venvs/new")
        assert call(instance_config, **arguments)["stale"] == ["tiny"]

    @pytest.mark.parametrize("record", ["", "{", '{"pid": 7}'])
    def test_server_without_a_true_record_is(self, call, arguments, record):
        self.record.write_text(record)
        assert call(instance_config, **arguments)["stale"] == ["tiny"]

    def test_server_that_runs_keeps_its_files(self, call, arguments):
        before = config(arguments)
        result = call(instance_config, **arguments, default_args={"seed": 1})
        assert (result["changed_instances"], config(arguments)) == (["tiny"], before)
        staged = {**arguments, "config_dir": str(Path(arguments["config_dir"]).with_name("staged"))}
        assert config(staged)["seed"] == 1
        assert not call(instance_config, **arguments, default_args={"seed": 1})["changed"]

    def test_change_that_is_taken_back_leaves_nothing(self, call, arguments):
        call(instance_config, **arguments, default_args={"seed": 1})
        assert call(instance_config, check=True, **arguments)["changed"]
        assert call(instance_config, **arguments) == {
            **call(instance_config, **arguments),
            "changed": True,
            "changed_instances": ["tiny"],
        }
        assert not list(Path(arguments["config_dir"]).with_name("staged").iterdir())

    def test_server_that_stands_still_gets_them_at_once(self, call, arguments, monkeypatch):
        call(instance_config, **arguments, default_args={"seed": 1})
        monkeypatch.setattr(instance_config.generations, "main_pid", lambda _described: 0)
        call(instance_config, **arguments, default_args={"seed": 2})
        assert config(arguments)["seed"] == 2
        assert not list(Path(arguments["config_dir"]).with_name("staged").iterdir())
