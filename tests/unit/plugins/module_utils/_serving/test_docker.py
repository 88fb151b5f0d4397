# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime docker, against a socket that speaks as dockerd does; and what runs inside a container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import client, contain, container, process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer
from ansible_collections.inferops.vllm.plugins.module_utils._serving.dockerd import LABEL, Dockerd, Refused
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed, Docker
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit
from doubles.nvml import fake

USER = pwd.getpwuid(os.getuid())


class Double:
    """In place of dockerd: containers with a state each, and a note of what it was told."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.told: list[str] = []
        self.seconds = 0.0

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        path, _question, query = path.partition("?")
        if path == "/containers/json":
            return 200, [
                {"Labels": found["Config"]["Labels"], "State": found["State"]["Status"], "Status": found["Told"]}
                for found in self.containers.values()
            ]
        if path == "/info":
            return 200, {"CDISpecDirs": ["/etc/cdi"]}
        if path == "/containers/create":
            self.told.append("create")
            self.put(query.partition("=")[2], "created", Labels=body["Labels"])
            return 201, {}
        _empty, _containers, name, *rest = path.split("/")
        if name not in self.containers:
            return 404, {"message": f"No such container: {name}"}
        if rest == ["json"]:
            return 200, self.containers[name]
        verb = rest[0] if rest else method.lower()
        self.told.append(verb)
        time.sleep(self.seconds)
        return self._do(verb, name)

    def _do(self, verb: str, name: str) -> tuple[int, Any]:
        state = self.containers[name]["State"]
        if verb == "delete":
            del self.containers[name]
        elif verb == "start":
            state.update(Status="running")
        elif verb == "stop":
            if state["Status"] == "exited":
                return 304, {}
            state.update(Status="exited")
        elif verb == "logs":
            return 200, b"\1\0\0\0\0\0\0\4one\n\2\0\0\0\0\0\0\4two\n"
        return 204, {}

    def put(self, name: str, status: str, told: str = "Up", pid: int = 0, **config: Any) -> dict[str, Any]:
        labels = {LABEL: name[len("vllm-") :], **config.get("Labels", {})}
        self.containers[name] = {
            "State": {"Status": status, "Pid": pid, "Error": ""},
            "Config": {"Labels": labels},
            "Told": told,
        }
        return self.containers[name]["State"]


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    double: Double


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = self.server.double.answer(self.command, self.path, json.loads(body or b"{}"))
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        # Who only begins something is gone by now.
        with contextlib.suppress(BrokenPipeError):
            self.send_response(status)
            if status not in client.BODILESS:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if status not in client.BODILESS:
                self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with Server(str(tmp_path / "socket"), Handler) as server:
        server.double = Double()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.double
        server.shutdown()


@pytest.fixture
def runtime(tmp_path: Path) -> Docker:
    return Docker(Dockerd(str(tmp_path / "socket")), str(tmp_path))


def instance(**fields: Any) -> Instance:
    given = {"root": "/opt/vllm", "runtime": "docker", "image": "image", "read_only_paths": ["/srv/model"], **fields}
    return Instance("tiny", 8000, "tiny", USER.pw_name, **given)


def unit(runtime: Docker) -> Unit:
    return asyncio.run(runtime.units(["tiny"]))["tiny"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("created", "stopped"),
        ("exited", "stopped"),
        ("restarting", "starting"),
        ("removing", "stopping"),
        ("dead", "stopped"),
        # It waits for what keeps the server from its start.
        ("running", "starting"),
    ],
)
def test_states(double: Double, runtime: Docker, status: str, expected: str) -> None:
    double.put("vllm-tiny", status)
    assert unit(runtime) == Unit(expected)


def test_container_that_is_not_there_is_stopped(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny2", "running")
    assert unit(runtime) == Unit("stopped")


def test_container_that_could_not_start_has_failed(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "exited")["Error"] = "invalid mount"
    assert unit(runtime) == Unit("failed", 0, "invalid mount")


def test_what_the_check_inside_says_is_told(double: Double, runtime: Docker) -> None:
    state = double.put("vllm-tiny", "running", told="Up 2 hours (unhealthy)")
    state["Health"] = {"Log": [{"Output": "old\n"}, {"Output": "in the container, GPU 0 is lost\n"}]}
    assert unit(runtime).detail == "in the container, GPU 0 is lost"


def test_no_engine_keeps_nothing_and_fails_where_it_is_needed(tmp_path: Path) -> None:
    runtime = Docker(Dockerd(str(tmp_path / "none")), str(tmp_path))
    assert asyncio.run(runtime.kept()) == {}
    with pytest.raises(CommandFailed, match=r"dockerd does not answer on .*none"):
        unit(runtime)


def test_every_container_starts_at_boot(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "exited")
    assert asyncio.run(runtime.kept()) == {"tiny": True}


class TestKeep:
    @pytest.fixture(autouse=True)
    def _configured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        described = instance(run_dir=str(tmp_path), working_dir=str(tmp_path / "work"))
        module = "ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime"
        monkeypatch.setattr(f"{module}.instances.load", lambda _name: described)
        monkeypatch.setattr(f"{module}.launch.remove_leftovers", lambda _instance: None)
        self.labels = container.definition(described, True)["Labels"]

    def test_new_one_is_made_and_started(self, double: Double, runtime: Docker) -> None:
        asyncio.run(runtime.keep("tiny"))
        assert double.told == ["create", "start"]

    @pytest.mark.parametrize("status", ["running", "restarting", "paused"])
    def test_running_one_is_let_be(self, double: Double, runtime: Docker, status: str) -> None:
        double.put("vllm-tiny", status)
        asyncio.run(runtime.keep("tiny"))
        assert double.told == []

    def test_stopped_one_keeps_its_log(self, double: Double, runtime: Docker) -> None:
        double.put("vllm-tiny", "exited", Labels=self.labels)
        asyncio.run(runtime.keep("tiny"))
        assert double.told == ["start"]

    def test_renewal_makes_one_by_the_present_definition(self, double: Double, runtime: Docker) -> None:
        double.put("vllm-tiny", "running")
        asyncio.run(runtime.renew("tiny", 5))
        assert double.told == ["stop", "delete", "create", "start"]


def test_stop_is_begun_and_not_waited_for(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "running")
    double.seconds = 3
    began = time.monotonic()
    asyncio.run(runtime.stop("tiny"))
    assert time.monotonic() - began < double.seconds
    assert double.told == ["stop"]


def test_stop_that_takes_too_long_is_told(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "running")
    double.seconds = 3
    with pytest.raises(CommandFailed, match=r"dockerd has not done POST /containers/vllm-tiny/stop within 0\.1 s"):
        asyncio.run(runtime.halt("tiny", 0.1))


def test_drop_leaves_nothing(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "exited")
    asyncio.run(runtime.drop("tiny", 5))
    assert double.containers == {}
    asyncio.run(runtime.drop("tiny", 5))


def test_restart_asks_the_parent_of_the_server(double: Double, runtime: Docker) -> None:
    with subprocess.Popen(["sleep", "60"]) as parent:
        double.put("vllm-tiny", "running", pid=parent.pid)
        asyncio.run(runtime.restart("tiny"))
        assert parent.wait(5) == -signal.SIGUSR1
    assert double.told == []
    double.put("vllm-tiny", "exited")
    asyncio.run(runtime.restart("tiny"))
    assert double.told == ["start"]


def test_log_is_both_outputs_in_their_order(double: Double, runtime: Docker) -> None:
    double.put("vllm-tiny", "running")
    assert asyncio.run(runtime.log("tiny", 10)) == "one\ntwo\n"


def test_refusal_says_why(double: Double, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="dockerd refuses POST /containers/vllm-x/start: No such container: vllm-x"):
        Dockerd(str(tmp_path / "socket")).start("vllm-x")
    assert double.told == []


class TestDefinition:
    def test_container_is_without_rights(self) -> None:
        made = container.definition(instance(), True)
        host = made["HostConfig"]
        assert made["User"] == f"{USER.pw_uid}:{USER.pw_gid}"
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges"])
        assert not {"Privileged", "CapAdd", "PidMode"} & set(host)
        writable = [mount["Target"] for mount in host["Mounts"] if not mount["ReadOnly"]]
        assert writable == ["/run/vllm", "/var/cache/vllm"]

    def test_engine_waits_longer_than_the_parent_of_the_server(self) -> None:
        assert container.definition(instance(stop_timeout_seconds=90), True)["StopTimeout"] > 90

    def test_every_change_makes_another_definition(self) -> None:
        seen = {
            container.made_by(container.definition(changed, cdi)["Labels"])
            for changed in (instance(), instance(image="other"), instance(gpus=[1]), instance(memory_max="1G"))
            for cdi in (True, False)
        }
        # Without GPUs it does not matter how they are handed out.
        assert len(seen) == 5

    def test_gpus_by_cdi(self, tmp_path: Path) -> None:
        assert container.gpus(instance(gpus=[2, 3]), True) == {
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=2", "nvidia.com/gpu=3"]}]
        }
        assert container.gpus(instance(), True, str(tmp_path)) == {}
        (tmp_path / "nvidiactl").touch()
        (request,) = container.gpus(instance(), True, str(tmp_path))["DeviceRequests"]
        assert request["DeviceIDs"] == ["nvidia.com/gpu=all"]

    def test_engine_without_cdi_knows_the_devices_itself(self, tmp_path: Path) -> None:
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
            (tmp_path / name).touch()
        given = container.gpus(instance(gpus=[1]), False, str(tmp_path))
        assert given["DeviceRequests"][0]["DeviceIDs"] == ["1"]
        assert [os.path.basename(device["PathOnHost"]) for device in given["Devices"]] == [
            "nvidia1",
            "nvidiactl",
            "nvidia-uvm",
        ]
        everything = container.gpus(instance(), False, str(tmp_path))
        assert everything["DeviceRequests"][0]["Count"] == -1
        assert len(everything["Devices"]) == 4

    @pytest.mark.parametrize(
        ("limit", "expected"), [("", 0), ("infinity", 0), ("90%", 900), ("512", 512), ("4K", 4096), ("2T", 2 << 40)]
    )
    def test_memory(self, limit: str, expected: int) -> None:
        assert container.memory_bytes(limit, 1000) == expected

    def test_memory_that_systemd_would_not_take(self) -> None:
        with pytest.raises(ValueError, match="memory_max is 8 GB: give bytes"):
            container.memory_bytes("8 GB", 1000)


def test_process_of_another_namespace_is_found() -> None:
    program = "import os, time; print(os.getpid(), os.readlink('/proc/self/ns/pid'), flush=True); time.sleep(60)"
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        line = parent.stdout.readline()
        if not line:
            pytest.skip("this user may not make a pid namespace")
        pid, namespace = line.split()
        found = process.here(int(pid), namespace)
        assert pid == "1"
        seen = process.stat(found)
        assert seen
        assert seen.parent == parent.pid
        os.kill(found, signal.SIGKILL)
    assert process.here(int(pid), namespace) == 0
    assert process.here(42, process.pid_namespace()) == 42


class TestInside:
    """The check of a container's health."""

    def answers(self, monkeypatch: pytest.MonkeyPatch, agent: Answer, server: Answer) -> None:
        async def request(_host: str, port: int, *_rest: Any) -> Answer:
            return agent if port == 9410 else server

        monkeypatch.setattr(client, "request", request)

    @pytest.mark.parametrize(
        ("state", "trouble"), [("ready", ""), ("draining", ""), ("loading", ""), ("hung", "hung: no step for 40 s")]
    )
    def test_verdict_of_the_agent(self, monkeypatch: pytest.MonkeyPatch, state: str, trouble: str) -> None:
        told = json.dumps({"state": state, "evidence": "no step for 40 s"}).encode()
        self.answers(monkeypatch, Answer(503, told, "", 0.1), Answer(200, b"", "", 0.1))
        assert contain.trouble(instance()) == trouble

    def test_server_speaks_for_itself_without_an_agent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refused = Answer(None, b"", "ConnectionRefusedError: refused", 0.1)
        self.answers(monkeypatch, refused, Answer(200, b"", "", 0.1))
        assert contain.trouble(instance()) == ""
        self.answers(monkeypatch, refused, Answer(503, b"", "", 0.1))
        assert contain.trouble(instance()) == "its server answers HTTP 503"

    def test_gpus_that_were_taken_away_are_noticed(self, tmp_path: Path) -> None:
        """After a reload of systemd the device files of a container cannot be opened, and all is well outside."""
        folder, scenario = fake.build(tmp_path / "fake"), fake.scenario("healthy_8", tmp_path)
        program = (
            "from ansible_collections.inferops.vllm.plugins.module_utils._serving import contain, instance;"
            "made = instance.Instance('a', 1, 'a', 'root', '/', runtime='docker', image='i', gpus=[5]);"
            "print(contain.lost_gpu(made))"
        )

        def looked() -> str:
            environment = {**os.environ, **fake.environment(folder, scenario), "PYTHONPATH": os.pathsep.join(sys.path)}
            return subprocess.run(
                [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
            ).stdout.strip()

        assert looked() == ""
        fake.edit(scenario, "system", nvmlInit="error 999")
        assert "the GPUs cannot be seen" in looked()
