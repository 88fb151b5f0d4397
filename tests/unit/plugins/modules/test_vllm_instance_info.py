# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vllm_instance_info tells, and what it does not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health import drain
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from ansible_collections.inferops.vllm.plugins.modules import vllm_instance_info
from doubles.node import Runtime, Server


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime(Unit("running", 1, "success"))
    monkeypatch.setattr(vllm_instance_info.runtime, "named", lambda _runtime: found)
    return found


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """What the agent answers; the last of the list."""
    answers = [Answer(None, b"", "ConnectionRefusedError: no", 0)]

    async def request(host: str, port: int, method: str, path: str, _timeout_seconds: float) -> Answer:
        assert (host, port, method, path) == ("127.0.0.1", 9410, "GET", "/status")
        return answers[-1]

    class Client:
        def __init__(self) -> None:
            self.request = request

    monkeypatch.setattr(vllm_instance_info, "client", Client())
    return answers


@pytest.fixture(autouse=True)
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "tiny")
    yield made
    made.end()


@pytest.fixture
def info(call, tmp_path):
    def run(**arguments: Any) -> dict[str, Any]:
        return call(
            vllm_instance_info, config_dir=str(tmp_path), drain_dir=str(tmp_path / "drain"), check=True, **arguments
        )

    return run


def test_stopped_instance(info, server, runtime):
    runtime.unit = Unit("stopped")
    result = info()
    assert (result["changed"], result["agent_error"]) == (False, "ConnectionRefusedError: no")
    tiny = result["instances"]["tiny"]
    assert (tiny["port"], tiny["served_model_name"]) == (server.instance.port, "m")
    assert tiny["unit"] == {"state": "stopped", "restarts": 0, "detail": ""}
    assert (tiny["record"], tiny["current"], tiny["agent"]) == ({}, False, None)
    assert tiny["drain"] == {"drained": False, "since": "", "reason": ""}
    assert (tiny["probe"]["state"], tiny["probe"]["serves"]) == ("down", False)


def test_serving_instance(info, server, agent, tmp_path):
    server.start()
    texts = [Path(path).read_text() for path in (server.instance.config_path, server.instance.description_path)]
    server.record.write_text(json.dumps({"pid": server.pid, "digest": serving.digest(*texts), "venv": "/v"}))
    status = {"instance": "tiny", "state": "ready", "ready": True}
    agent.append(Answer(200, json.dumps({"instances": [status]}).encode(), "", 0))
    drain.set_flag("tiny", "why", str(tmp_path / "drain"))
    deadline = time.monotonic() + 60
    while True:
        result = info()
        tiny = result["instances"]["tiny"]
        if tiny["probe"]["serves"] or time.monotonic() > deadline:
            break
    assert tiny["probe"]["state"] == "ready"
    assert (result["agent_error"], tiny["agent"]) == ("", status)
    assert (tiny["record"]["pid"], tiny["current"]) == (server.pid, True)
    assert (tiny["drain"]["drained"], tiny["drain"]["reason"]) == (True, "why")
    server.record.write_text(json.dumps({"pid": server.pid, "digest": "older"}))
    assert info()["instances"]["tiny"]["current"] is False


def test_no_secret_is_told(info, server):
    options = {
        "api-key": ["geheim"],
        "hf-token": "geheim",
        "ssl-keyfile-password": "geheim",
        "max-num-batched-tokens": 5,
    }
    Path(server.instance.config_path).write_text(serving.dump_config(options))
    result = info()
    assert result["instances"]["tiny"]["options"] == {"max-num-batched-tokens": 5}
    assert result["instances"]["tiny"]["environment"] == ["HF_TOKEN"]
    assert "geheim" not in json.dumps({**result, "invocation": None})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"instances": [7]}', b'{"instances": [{}]}'])
def test_another_program_on_the_agents_port(info, agent, body):
    agent.append(Answer(200, body, "", 0))
    result = info()
    assert result["agent_error"] == "what answers on port 9410 is not the agent"
    assert result["instances"]["tiny"]["agent"] is None


def test_agent_that_does_not_know_the_instance(info, agent):
    agent.append(Answer(200, b'{"instances": []}', "", 0))
    result = info()
    assert (result["agent_error"], result["instances"]["tiny"]["agent"]) == ("", None)


def test_runtime_that_does_not_answer(info, runtime):
    runtime.unit = None
    tiny = info()["instances"]["tiny"]
    assert tiny["unit"] is None
    assert tiny["probe"]["state"] == "unknown"


@pytest.mark.parametrize("record", ["", "{", "[]", "[" * 100_000])
def test_damaged_files(info, server, record):
    server.record.write_text(record)
    Path(server.instance.config_path).write_text("port: {")
    tiny = info()["instances"]["tiny"]
    assert (tiny["record"], tiny["options"]) == ({}, {})


def test_names(info, tmp_path):
    Server(tmp_path, "other")
    assert sorted(info()["instances"]) == ["other", "tiny"]
    assert sorted(info(names=["tiny"])["instances"]) == ["tiny"]
    assert info(names=[])["instances"] == {}
    assert "names has big, and the instances of this node are other, tiny" in info(names=["big"])["msg"]
