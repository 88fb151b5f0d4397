# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator of vLLM has the habits of the real one that the collection builds on."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.simulator.vllm_simulator import UsageError, read_settings

FOLDER = Path(__file__).parents[2] / "doubles" / "simulator"
# As a module, of which Python keeps the bytecode.
SIMULATOR = [sys.executable, "-m", "vllm_simulator"]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "who is there"}]


def eventually(condition: Callable[[], Any], seconds: float = 5) -> Any:
    """Return the condition's value once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("not within the time")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Server:
    """A simulator under test."""

    def __init__(self, log: Path, arguments: list[str], environment: dict[str, str], command: list[str]) -> None:
        self.port = free_port()
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, *arguments, "--host", "127.0.0.1", "--port", str(self.port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(FOLDER),
                    "SIM_LOAD_SECONDS": "0",
                    "SIM_TOKEN_SECONDS": "0.01",
                    **environment,
                },
                start_new_session=True,
            )

    def ready(self) -> Server:
        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.health() == 200

        eventually(answers)
        self.engine = int(self.get("/simulator")["engine_pid"])
        return self

    def request(
        self, method: str, path: str, body: Any = None, key: str | None = None, timeout: float = 10
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, body: Any) -> Any:
        status, answer = self.request("POST", path, body)
        assert status == 200, answer
        return json.loads(answer)

    def script(self, **orders: Any) -> Any:
        return self.post("/simulator", orders)

    def health(self) -> int | None:
        """Return the status of /health, or None when the connection is refused."""
        try:
            return self.request("GET", "/health")[0]
        except ConnectionError:
            return None

    def metrics(self) -> dict[str, float]:
        """Return the samples by name and labels, without those that all have."""
        page = self.request("GET", "/metrics")[1].decode()
        samples = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        return {re.sub(r'(engine|model_name)="[^"]*",?', "", name): float(value) for name, value in samples}

    def steps(self) -> float:
        return self.metrics()["vllm:iteration_tokens_total_count{}"]

    def running(self) -> float:
        return self.metrics()["vllm:num_requests_running{}"]

    def exit_status(self, seconds: float = 5) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)


class Stream:
    """A streamed answer, read in a thread."""

    def __init__(self, server: Server, path: str = COMPLETIONS, **body: Any) -> None:
        prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "a b"}
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.events: list[str] = []
        wanted = {"stream": True, "ignore_eos": True, "max_tokens": 1000, **prompt, **body}
        self.connection.request("POST", path, json.dumps(wanted), {"Content-Type": "application/json"})
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            for line in self.response:
                if line.startswith(b"data: "):
                    self.events.append(line[len("data: ") :].decode().strip())

    def started(self) -> Stream:
        eventually(lambda: len(self.events) > 1)
        return self

    def finished(self) -> list[Any]:
        """Return the events once the stream has ended as it should."""
        self.thread.join(10)
        assert self.events[-1] == "[DONE]"
        return [json.loads(event) for event in self.events[:-1]]

    def text(self) -> str:
        choices = [event["choices"][0] for event in self.finished() if event.get("choices")]
        return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)

    def leave(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.connection.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    return str(folder)


@pytest.fixture
def launch(model: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a simulator; what SIM_* says is given in lower case, without the prefix."""
    servers: list[Server] = []

    def start(
        *arguments: str, command: list[str] | None = None, env: dict[str, str] | None = None, **sim: Any
    ) -> Server:
        environment = {**(env or {}), **{f"SIM_{name.upper()}": str(value) for name, value in sim.items()}}
        command = command or [*SIMULATOR, "--model", model]
        servers.append(Server(tmp_path / f"{len(servers)}.log", list(arguments), environment, command))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def shared(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that change nothing in it."""
    arguments = ["--model", model, "--served-model-name", "tiny", "--api-key", "k1", "k2"]
    log = tmp_path_factory.mktemp("shared") / "log"
    server = Server(log, arguments, {}, SIMULATOR)
    yield server.ready()
    server.end()


def test_metrics_are_named_and_labelled_as_the_real_ones(shared: Server) -> None:
    page = shared.request("GET", "/metrics")[1].decode()
    samples: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.startswith("vllm:"):
            identifier = line.rsplit(" ", 1)[0]
            bound = re.search(r'le="([^"]*)",?', identifier)
            name = identifier.replace(bound[0], "") if bound else identifier
            samples.setdefault(name, []).extend([bound[1]] if bound else [])
    expected = {}
    for line in Path(__file__).with_name("vllm_metrics.txt").read_text().splitlines()[1:]:
        name, *bounds = line.split(" ")
        expected[name] = bounds
    assert samples == expected


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/health", None, 200),
        ("GET", "/ping", None, 200),
        ("GET", "/load", None, 200),
        ("GET", "/metrics", None, 200),
        ("GET", "/version", None, 200),
        ("GET", "/v1/models", None, 401),
        ("GET", "/v1/models", "k3", 401),
        ("GET", "/v1/models", "k1", 200),
        ("GET", "/v1/models", "k2", 200),
        ("GET", "/v1anything", None, 401),
        ("GET", "/ready", None, 404),
        ("OPTIONS", "/v1/models", None, 405),
        ("HEAD", "/health", None, 405),
        ("POST", COMPLETIONS, None, 401),
        ("POST", COMPLETIONS, "k1", 200),
        ("POST", "/invocations", None, 200),
        ("POST", "/tokenize", None, 200),
    ],
)
def test_keys_guard_the_prefixes_alone(shared: Server, method: str, path: str, key: str | None, status: int) -> None:
    body = {"prompt": "hi", "max_tokens": 1} if method == "POST" else None
    assert shared.request(method, path, body, key)[0] == status


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "other", "prompt": "hi"}, 404, "NotFoundError"),
        ({}, 400, "BadRequestError"),
        ({"prompt": "hi", "max_tokens": 0}, 400, "BadRequestError"),
        ({"prompt": "hi", "max_tokens": 5000}, 400, "BadRequestError"),
        ({"prompt": [1] * 5000}, 400, "BadRequestError"),
        ({"messages": "hi"}, 400, "Bad Request"),
        ("hi", 400, "Bad Request"),
    ],
)
def test_errors_have_the_form_of_the_openai_api(shared: Server, body: Any, status: int, kind: str) -> None:
    got, answer = shared.request("POST", "/invocations", body)
    error = json.loads(answer)["error"]
    assert (got, error["code"], error["type"]) == (status, status, kind)


def test_answers(launch: Callable[..., Server]) -> None:
    server = launch("--served-model-name", "tiny", "other", answer_tokens=5, token_seconds=0.001).ready()

    completion = server.post(COMPLETIONS, {"prompt": "a b c", "max_tokens": 3})
    assert completion["choices"][0]["text"] == " 0 1 2"
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"] == {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}
    assert completion["model"] == "tiny"

    chat = server.post(CHAT, {"model": "other", "messages": MESSAGES})
    assert chat["choices"][0]["message"]["content"] == " 0 1 2 3 4"
    assert (chat["choices"][0]["finish_reason"], chat["model"]) == ("stop", "other")

    for path in (COMPLETIONS, CHAT):
        stream = Stream(server, path, max_tokens=20, stream_options={"include_usage": True})
        assert stream.text() == "".join(f" {number}" for number in range(20))
        assert stream.finished()[-1]["usage"]["completion_tokens"] == 20

    assert server.get("/v1/models")["data"][1]["id"] == "other"
    assert server.post("/tokenize", {"prompt": "a b c"})["count"] == 3
    assert server.metrics()['vllm:request_success_total{finished_reason="length",}'] == 3
    assert server.metrics()['http_requests_total{handler="/v1/completions",method="POST",status="2xx"}'] == 2


def test_options_come_from_the_file_and_the_command_line(launch: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    lines = ["# a comment", "model: org/name", 'served-model-name: ["a", "b"]', "max_model_len: 100", 'api-key: ["k"]']
    file.write_text("\n".join([*lines, "enable-server-load-tracking: true", "limit-mm-per-prompt: {}", ""]))
    # What the console script of the wheel calls.
    command = [sys.executable, "-c", "import sys; from vllm_simulator import cli; sys.exit(cli())", "serve"]
    options = [
        "--config",
        str(file),
        "--max-model-len",
        "200",
        "-tp",
        "2",
        "--enforce-eager",
        "--gpu-memory-utilization=0.5",
    ]
    server = launch(*options, command=command).ready()
    body = server.request("GET", "/v1/models", key="k")[1]
    models = json.loads(body)["data"]
    assert [(entry["id"], entry["root"], entry["max_model_len"]) for entry in models] == [
        ("a", "org/name", 200),
        ("b", "org/name", 200),
    ]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--model", "/nowhere"], {}, "model /nowhere: no such directory"),
        ([], {}, "no model: "),
        (["m", "--config", "/nowhere.yaml"], {}, "--config /nowhere.yaml: No such file or directory"),
        (["m", "--config", "/nowhere.json"], {}, "must end with .yaml"),
        (["m", "--max-num-seqs", "many"], {}, "--max-num-seqs: expected a whole number"),
        (["m"], {"SIM_LOADSECONDS": "1"}, "SIM_LOADSECONDS: no such variable"),
        (["m"], {"SIM_LOAD_SECONDS": "-1"}, "SIM_LOAD_SECONDS: expected a number"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read_settings(arguments, environment)


def test_failed_starts_end_with_1(launch: Callable[..., Server], tmp_path: Path) -> None:
    no_config = launch(command=[*SIMULATOR, "--model", str(tmp_path)])
    failure = launch(startup_failure_seconds=0.1)
    assert (no_config.exit_status(), failure.exit_status()) == (1, 1)
    assert "config.json: No such file or directory" in no_config.log.read_text()
    assert "start-up failure, as scripted" in failure.log.read_text()


def test_connections_are_refused_while_it_loads(launch: Callable[..., Server]) -> None:
    server = launch(load_seconds=0.5)
    eventually(lambda: "API server version" in server.log.read_text())
    assert server.health() is None
    with socket.socket() as rival, pytest.raises(OSError, match="in use"):
        rival.bind(("127.0.0.1", server.port))
    server.ready()


def test_sigterm_while_it_loads_ends_it_with_an_error(launch: Callable[..., Server]) -> None:
    server = launch(load_seconds=30)
    eventually(lambda: "API server version" in server.log.read_text())
    engine = eventually(lambda: children(server.process.pid))[0]
    server.process.terminate()
    assert server.exit_status() != 0
    assert "KeyboardInterrupt: terminated" in server.log.read_text()
    assert not alive(engine)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_engine_is_a_child_that_outlives_a_killed_server(launch: Callable[..., Server]) -> None:
    server = launch(env={"CUDA_VISIBLE_DEVICES": "1"}).ready()
    engine = Path(f"/proc/{server.engine}")
    assert children(server.process.pid) == [server.engine]
    assert engine.joinpath("comm").read_text() == "VLLM::EngineCor\n"
    assert engine.joinpath("cmdline").read_bytes().rstrip(b"\0") == b"VLLM::EngineCore"
    assert b"CUDA_VISIBLE_DEVICES=1" in engine.joinpath("environ").read_bytes().split(b"\0")
    assert os.getpgid(server.engine) == server.process.pid

    with contextlib.suppress(ConnectionError):
        server.script(die="api")
    assert server.exit_status() == -signal.SIGKILL
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", server.port))
    time.sleep(0.2)
    assert alive(server.engine)
    os.kill(server.engine, signal.SIGTERM)
    eventually(lambda: not alive(server.engine))


def test_a_hung_engine_freezes_what_it_pushes_and_nothing_else(launch: Callable[..., Server]) -> None:
    server = launch("--enable-server-load-tracking").ready()
    first = Stream(server, max_tokens=300).started()
    assert server.script(hang=True)["hung"]
    time.sleep(0.05)
    frozen = server.steps(), len(first.events)
    second = Stream(server, max_tokens=5)
    time.sleep(0.2)
    assert (server.steps(), len(first.events)) == frozen
    assert (server.running(), server.metrics()["vllm:num_requests_waiting{}"]) == (1, 0)
    assert server.get("/load") == {"server_load": 2}
    assert [server.request("GET", path)[0] for path in ("/health", "/v1/models", "/metrics")] == [200, 200, 200]
    assert not server.script(resume=True, token_seconds=0.001)["hung"]
    assert first.text() == "".join(f" {number}" for number in range(300))
    assert second.text() == " 0 1 2 3 4"
    assert server.get("/load") == {"server_load": 0}


def test_a_hung_server_survives_sigterm_while_a_client_stays(launch: Callable[..., Server]) -> None:
    server = launch().ready()
    stream = Stream(server).started()
    os.kill(server.engine, signal.SIGSTOP)
    server.process.terminate()
    eventually(lambda: not alive(server.engine))
    eventually(lambda: server.health() is None)
    with pytest.raises(subprocess.TimeoutExpired):
        server.exit_status(0.5)
    stream.leave()
    assert server.exit_status() == 0


def test_a_dead_engine_ends_the_server_with_0(launch: Callable[..., Server]) -> None:
    server = launch(death_seconds=1.5).ready()
    streams = [Stream(server, path).started() for path in (COMPLETIONS, CHAT)]
    os.kill(server.engine, signal.SIGKILL)
    killed = time.monotonic()
    for stream in streams:
        assert stream.finished()[-1]["error"]["code"] == 500
    eventually(lambda: server.health() == 503)
    assert server.get("/v1/models")
    eventually(lambda: server.health() is None)
    assert server.exit_status() == 0
    assert time.monotonic() - killed > 1.4


def test_an_unstreamed_request_ends_the_server_of_a_dead_engine_at_once(launch: Callable[..., Server]) -> None:
    server = launch(death_seconds=60, die_after_seconds=0.3).ready()
    status, body = server.request("POST", COMPLETIONS, {"prompt": "hi", "max_tokens": 1000, "ignore_eos": True})
    assert (status, json.loads(body)["error"]["type"]) == (500, "InternalServerError")
    assert server.exit_status() == 0


def test_sigterm_aborts_requests_inside_an_answer_of_200(launch: Callable[..., Server]) -> None:
    server = launch().ready()
    stream = Stream(server).started()
    server.process.terminate()
    assert stream.finished()[-1]["choices"][0]["finish_reason"] == "abort"
    assert server.exit_status() == 0
    assert not alive(server.engine)


def test_sigterm_of_an_idle_server(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-timeout", "30").ready()
    server.process.terminate()
    assert server.exit_status(2) == 0


def test_sigterm_drains_with_a_shutdown_timeout(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-timeout", "30").ready()
    stream = Stream(server, max_tokens=20).started()
    os.kill(server.engine, signal.SIGSTOP)  # so that the drain takes its time
    server.process.terminate()
    eventually(lambda: "mode=drain" in server.log.read_text())
    assert server.request("POST", COMPLETIONS, {"prompt": "hi", "max_tokens": 1})[0] == 500
    assert server.health() == 200
    os.kill(server.engine, signal.SIGCONT)
    assert stream.text() == "".join(f" {number}" for number in range(20))
    assert server.exit_status() == 0


def test_sigterm_aborts_what_the_shutdown_timeout_leaves(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-timeout", "1").ready()
    stream = Stream(server).started()
    server.process.terminate()
    assert stream.finished()[-1]["choices"][0]["finish_reason"] == "abort"
    assert server.exit_status() == 0


def test_sigterm_to_the_whole_group_destroys_the_drain(launch: Callable[..., Server]) -> None:
    server = launch("--shutdown-timeout", "1").ready()
    stream = Stream(server).started()
    os.killpg(server.process.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        server.exit_status(1.7)
    assert not alive(server.engine)
    assert len(stream.events) < 1000
    stream.leave()
    assert server.exit_status() == 0


def test_a_saturated_server_answers_late_while_its_engine_goes_on(launch: Callable[..., Server]) -> None:
    server = launch(health_seconds=0.3)
    eventually(lambda: server.health() == 200)
    stream = Stream(server).started()
    before, start = server.steps(), time.monotonic()
    assert server.health() == 200
    assert time.monotonic() - start >= 0.3
    assert server.steps() > before + 5
    assert server.script(saturate={"metrics_seconds": 0.3})["health_seconds"] == 0
    start = time.monotonic()
    server.steps()
    assert time.monotonic() - start >= 0.3
    stream.leave()


def test_scripted_failures_and_pace(launch: Callable[..., Server]) -> None:
    server = launch().ready()
    server.script(fail=True)
    assert server.request("POST", COMPLETIONS, {"prompt": "hi"})[0] == 500
    server.script(fail=False, token_seconds=0.2)
    start = time.monotonic()
    server.post(COMPLETIONS, {"prompt": "hi", "max_tokens": 3})
    assert time.monotonic() - start >= 0.6
    wrong: list[Any] = [{"hagn": True}, {"die": "all"}, {"token_seconds": "slow"}, {"saturate": {"seconds": 1}}, []]
    for orders in wrong:
        assert server.request("POST", "/simulator", orders)[0] == 400


def test_queue(launch: Callable[..., Server]) -> None:
    options = ["--max-num-seqs", "2", "--max-num-queued-reqs", "3", "--max-model-len", "1024"]
    server = launch(*options, token_seconds=0.02).ready()
    server.script(hang=True)
    streams = [Stream(server, max_tokens=50) for _stream in range(3)]
    assert server.request("POST", COMPLETIONS, {"prompt": "hi"})[0] == 503
    server.script(resume=True)
    metrics = eventually(lambda: (page := server.metrics())["vllm:num_requests_running{}"] and page)
    assert (metrics["vllm:num_requests_running{}"], metrics["vllm:num_requests_waiting{}"]) == (2, 1)
    assert 0 < metrics["vllm:kv_cache_usage_perc{}"] < 1
    server.script(token_seconds=0.001)
    assert [len(stream.finished()) for stream in streams] == [50, 50, 50]
    metrics = server.metrics()
    assert metrics['vllm:admission_rejections_total{reason="max_num_queued_reqs"}'] == 1
    assert metrics["vllm:num_requests_running{}"] == metrics["vllm:num_requests_waiting{}"] == 0
    assert metrics["vllm:request_queue_time_seconds_sum{}"] > 0
    assert metrics["vllm:generation_tokens_total{}"] == 150


def test_a_request_that_its_client_leaves_is_aborted_and_not_counted(launch: Callable[..., Server]) -> None:
    server = launch("--enable-server-load-tracking").ready()
    body = {"prompt": "hi", "max_tokens": 4000, "ignore_eos": True}
    with pytest.raises(TimeoutError):
        server.request("POST", COMPLETIONS, body, timeout=0.1)
    Stream(server).started().leave()
    eventually(lambda: server.running() == 0 and server.get("/load") == {"server_load": 0})
    assert server.metrics()['vllm:request_success_total{finished_reason="abort",}'] == 0


def test_connections_are_kept_for_a_while(launch: Callable[..., Server]) -> None:
    server = launch(env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "0.5"}).ready()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n\r\n" * 2)
        answers = b""
        start = time.monotonic()
        while data := client.recv(65536):
            answers += data
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert time.monotonic() - start >= 0.5
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b"connection: close" in client.recv(65536)
        assert client.recv(65536) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"POST /tokenize HTTP/1.1\r\nContent-Type: application/json\r\n")
        client.sendall(b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"promp\r\n9\r\nt": "a b"\r\n1\r\n}\r\n0\r\n\r\n')
        assert b'"count":2' in client.recv(65536)


def test_fifty_streams_at_once(launch: Callable[..., Server]) -> None:
    server = launch(token_seconds=0.02).ready()
    streams = [Stream(server, CHAT, max_tokens=40) for _stream in range(50)]
    whole = "".join(f" {number}" for number in range(40))
    assert all(stream.text() == whole for stream in streams)
    # Together, not one after the other, which would take 2000.
    assert server.steps() < 400


def test_an_idle_server_costs_next_to_nothing(launch: Callable[..., Server]) -> None:
    server = launch().ready()
    server.post(COMPLETIONS, {"prompt": "hi", "max_tokens": 2})
    before = cpu_seconds(server.process.pid) + cpu_seconds(server.engine)
    time.sleep(0.5)
    assert cpu_seconds(server.process.pid) + cpu_seconds(server.engine) - before < 0.03
    assert sum(memory(pid) for pid in (server.process.pid, server.engine)) < 40e6


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Return the bytes of a process, with its part of what it shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def build(folder: Path, *arguments: str) -> Path:
    command = [sys.executable, str(FOLDER / "build.py"), str(folder), *arguments]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def test_the_wheel_is_reproducible_and_serves(launch: Callable[..., Server], model: str, tmp_path: Path) -> None:
    wheel = build(tmp_path / "a", "--version", "0.34.0", "--default", "SIM_ANSWER_TOKENS=2")
    again = build(tmp_path / "b", "--version", "0.34.0", "--default", "SIM_ANSWER_TOKENS=2")
    assert wheel.name == "vllm-0.34.0-py3-none-any.whl"
    assert wheel.read_bytes() == again.read_bytes()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (tmp_path / "a" / "requirements.txt").read_text() == f"vllm==0.34.0 --hash=sha256:{digest}\n"

    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    server = launch(command=command, env={"PYTHONPATH": str(wheel)}).ready()
    assert server.get("/version") == {"version": "0.34.0"}
    assert server.post(CHAT, {"messages": MESSAGES})["usage"]["completion_tokens"] == 2


def test_the_record_of_the_wheel_is_right(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(tmp_path)) as archive:
        lines = archive.read("vllm-0.33.0.dist-info/RECORD").decode().splitlines()
        assert sorted(line.split(",")[0] for line in lines) == sorted(archive.namelist())
        for name, digest, size in (line.split(",") for line in lines[:-1]):
            content = archive.read(name)
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={encoded}", str(len(content)))


def test_the_builder_refuses_a_default_that_does_not_exist(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "build.py"), str(tmp_path), "--default", "SIM_LAOD_SECONDS=1"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "SIM_LAOD_SECONDS: no such variable of the simulator" in result.stderr
