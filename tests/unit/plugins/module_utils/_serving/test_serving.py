# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances' files, what servers are asked, and the launcher's checks, on real files, sockets and processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Gpu, Node
from ansible_collections.inferops.vllm.plugins.module_utils._serving import client, launch, probe, process
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as instances
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.process import control_group

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1, max_size=50), inner),
    max_leaves=5,
)


def instance(**changes: object) -> Instance:
    return Instance(**{"name": "tiny", "port": 1, "served_model_name": "tiny", "user": "vllm", "root": "/o", **changes})


# YAML takes a few words for booleans or nothing; vLLM has no option of such a name.
OPTIONS = st.from_regex(r"[a-z][a-z-]{0,20}", fullmatch=True).filter(lambda name: yaml.safe_load(name) == name)


@given(st.dictionaries(OPTIONS, VALUES))
def test_config_means_the_same_to_us_and_to_yaml(options):
    text = instances.dump_config(options)
    assert instances.load_config(text) == options
    assert (yaml.safe_load(text) or {}) == options


def test_description_survives_the_file(tmp_path):
    written = instance(environment={"A": "1"}, config_dir=str(tmp_path))
    (tmp_path / "tiny.json").write_text(written.dump())
    assert instances.load("tiny", str(tmp_path)) == written
    assert instances.names(str(tmp_path)) == ["tiny"]
    assert instances.names(str(tmp_path / "missing")) == []


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def answer(status: int, body: bytes = b"") -> Answer:
    return Answer(status, body, "", 0.0)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([200], 200), ([500], 500), ([404, 200], 200), ([404, 404, 200], 200), ([404, 404, 404], 404)],
)
def test_one_token_or_else_a_vector(monkeypatch, tmp_path, statuses, expected):
    asked = []

    async def request(_host, _port, method, path, _timeout_seconds, body, headers):
        asked.append((method, path, json.loads(body)["model"], headers))
        return answer(statuses[len(asked) - 1])

    monkeypatch.setattr(client, "request", request)
    (tmp_path / "tiny.yaml").write_text('api-key: ["first", "second"]\n')
    assert asyncio.run(probe.one_token(instance(config_dir=str(tmp_path)), 1)).status == expected
    key = {"Authorization": "Bearer first"}
    paths = ["/v1/completions", "/v1/embeddings", "/pooling"][: len(statuses)]
    assert asked == [("POST", path, "tiny", key) for path in paths]


@pytest.mark.parametrize("config", [None, "api-key: [", "\udcff"])
def test_one_token_of_an_instance_without_a_readable_configuration(tmp_path, config):
    if config is not None:
        (tmp_path / "tiny.yaml").write_bytes(config.encode(errors="surrogateescape"))
    failed = asyncio.run(probe.one_token(instance(config_dir=str(tmp_path)), 1))
    assert failed.status is None
    assert str(failed).startswith(f"{tmp_path}/tiny.yaml: ")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data": [{"id": "tiny"}, {"id": "other"}]}', ["tiny", "other"]),
        (b'{"data": [{"name": "x"}, 7, null, {"id": 5}]}', ["5"]),
        (b'{"data": 7}', []),
        (b'{"data": "tiny"}', []),
        (b'{"data": null}', []),
        (b"[]", []),
        (b"{}", []),
        (b"\xff", []),
        (b"", []),
    ],
)
def test_models_of_a_server_that_may_talk_nonsense(monkeypatch, tmp_path, body, names):
    async def request(*_arguments, **_named):
        return answer(200, body)

    monkeypatch.setattr(client, "request", request)
    (tmp_path / "tiny.yaml").write_text("port: 1\n")
    assert asyncio.run(probe.served_models(instance(config_dir=str(tmp_path)), 1)) == names


class TestLauncher:
    @staticmethod
    def engine(name: str) -> subprocess.Popen[bytes]:
        program = (
            "import sys, time; open('/proc/self/comm', 'w').write('VLLM::EngineCor'); print(flush=True); time.sleep(60)"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, process.MARK: name}, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        return child

    def test_leftovers_of_this_instance_are_removed_and_no_others(self):
        # Of no other run of these tests on this host.
        name = f"mine-{uuid.uuid4().hex[:12]}"
        with self.engine(name) as mine, self.engine(f"{name}field") as other:
            launch.check(instance(name=name, port=_free_port()))
            assert mine.wait(5) == -9
            assert other.poll() is None
            other.kill()

    def test_held_port_is_refused(self, port):
        with pytest.raises(launch.CannotStart, match=rf"port {port} is held by .+ \(pid {os.getpid()}\): stop it"):
            launch.check(instance(name="nobody", port=port))

    @pytest.mark.parametrize(
        ("variant", "gpus", "refused"), [("cuda", [0], True), ("cuda", [], False), ("cpu", [0], False)]
    )
    def test_lost_gpu_is_refused(self, monkeypatch, tmp_path, variant, gpus, refused):
        """Of a server that has GPUs, and uses them."""
        monkeypatch.setattr(launch, "look", lambda _seconds: Node("nvml", gpus=(Gpu(0, lost=True),)))
        (tmp_path / "current").mkdir()
        (tmp_path / "current" / ".inferops.json").write_text(json.dumps({"variant": variant}))
        given = instance(name="nobody", port=_free_port(), root=str(tmp_path), run_dir=str(tmp_path), gpus=gpus)
        with pytest.raises(launch.CannotStart, match="GPU 0 is lost") if refused else contextlib.nullcontext():
            launch.check(given)
        assert Path(given.obstacle_path).exists() is refused

    @pytest.mark.parametrize("handed", [True, False])
    def test_files_that_systemd_cannot_hand_over(self, tmp_path, monkeypatch, handed):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        if handed:
            (tmp_path / "nobody.json").touch()
        refused = pytest.raises(launch.CannotStart, match="systemd cannot hand it its files")
        with contextlib.nullcontext() if handed else refused:
            launch.check(instance(name="nobody", port=_free_port(), run_dir=str(tmp_path)))

    def test_small_shm_is_refused(self):
        with pytest.raises(launch.CannotStart, match=r"/dev/shm has .* MiB free and .* MiB are needed: enlarge it"):
            launch.check(instance(name="nobody", port=_free_port(), shm_bytes=1 << 60))

    def test_becomes_the_server_from_the_real_directory(self, tmp_path, monkeypatch):
        venv = tmp_path / "venvs/0.33.0"
        venv.mkdir(parents=True)
        (venv / ".inferops.json").write_text('{"variant": "cpu"}')
        (tmp_path / "current").symlink_to("venvs/0.33.0")
        (tmp_path / "tiny.yaml").write_text("port: 1\n")
        (tmp_path / "tiny.json").write_text("{}\n")
        became: list[tuple[str, list[str], dict[str, str]]] = []
        monkeypatch.setattr(launch.os, "execve", lambda *arguments: became.append(arguments))
        launch.run(
            instance(root=str(tmp_path), config_dir=str(tmp_path), run_dir=str(tmp_path / "."), environment={"A": "1"})
        )
        program, argv, environment = became[0]
        assert program == f"{venv}/bin/python"
        assert argv[1:] == ["-m", "vllm.entrypoints.openai.api_server", "--config", f"{tmp_path}/tiny.yaml"]
        assert (environment["A"], environment[process.MARK]) == ("1", "tiny")


def test_record_names_the_configuration_of_the_start(tmp_path):
    (tmp_path / "tiny.yaml").write_text("port: 1\n")
    (tmp_path / "tiny.json").write_text("{}\n")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    launch._record(instance(config_dir=str(tmp_path), run_dir=str(run_dir)), "/venv")
    record = json.loads((run_dir / "tiny.json").read_text())
    assert record == {
        "pid": os.getpid(),
        "digest": instances.digest("port: 1\n", "{}\n"),
        "venv": "/venv",
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_listeners_are_found(port):
    free = _free_port()
    (found,) = process.listeners({port, free}).items()
    assert (found[0], found[1].pid) == (port, os.getpid())
    assert process.listeners({free}) == {}


def test_of_a_listener_and_its_children_the_listener_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]) as child:
            found = process.listeners({port})
            child.kill()
    assert [holder.pid for holder in found.values()] == [os.getpid()]


def test_the_oldest_listener_is_named_whatever_its_pid(tmp_path):
    """Pids start anew when the kernel has used them up, so a child's may be lower than its parent's."""
    (tmp_path / "net").mkdir()
    row = "0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1"
    (tmp_path / "net/tcp").write_text(f"head\n{row}\n")
    for pid, name, start_ticks in ((32000, "parent", 100), (15, "child", 200)):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/fd/3").symlink_to("socket:[77]")
        (tmp_path / f"{pid}/comm").write_text(name)
        (tmp_path / f"{pid}/stat").write_text(f"{pid} ({name}) S {'0 ' * 18}{start_ticks} 0")
    assert process.listeners({8000}, str(tmp_path)) == {8000: process.Process(32000, "parent")}


def test_zombies_count_as_gone():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.wait_gone([child.pid], 1) == []
    child.wait()


def test_waiting_for_a_processor_is_counted():
    before = process.waited_seconds(os.getpid())
    cores = len(os.sched_getaffinity(0))
    crowd = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _number in range(2 * cores)]
    deadline = time.monotonic() + 30
    while process.waited_seconds(os.getpid()) <= before:
        assert time.monotonic() < deadline
    for rival in crowd:
        rival.kill()
        rival.wait()
    assert process.waited_seconds(1 << 30) == 0.0


@pytest.mark.parametrize("root", ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"])
def test_control_group_wherever_its_hierarchy_is_mounted(monkeypatch, tmp_path, root):
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        path = stream.read().rpartition("0::")[2].strip()
    made = Path(f"{tmp_path}{root}{path}")
    made.mkdir(parents=True)
    (made / "cgroup.procs").write_text("7\n8\n")
    monkeypatch.setattr(process, "CONTROL_GROUPS", [f"{tmp_path}{place}" for place in process.CONTROL_GROUPS])
    assert control_group(os.getpid()) == [7, 8]


def test_control_group_that_cannot_be_read_has_the_process_alone(monkeypatch):
    monkeypatch.setattr(process, "CONTROL_GROUPS", ["/nowhere"])
    assert control_group(os.getpid()) == [os.getpid()]
    assert control_group(1 << 30) == [1 << 30]


def test_boot_id(tmp_path: Path) -> None:
    assert len(process.boot_id()) == 36
    assert process.boot_id(str(tmp_path)) == ""
