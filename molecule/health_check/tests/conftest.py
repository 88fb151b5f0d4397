"""Faults are injected side by side, on both hosts at once; then, host by host, those of the agent one after another."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import testinfra

from doubles.nvml import node as fake_gpus

AGENT_PORT = 9410
NAMES = ["api", "engine", "idle", "working", "deaf", "memory", "fragile", "port", "saturated", "slow", "stalled"]
PORTS = {name: 8000 + number for number, name in enumerate(NAMES)}
PATIENCE_SECONDS = 90
"""At least three times what anything here takes on a machine with nothing else to do."""


class Node:
    """A host, its agent and its instances."""

    def __init__(self, host):
        self.host = host
        self.address = host.check_output("hostname -I").split()[0]
        self.run = host.check_output

    def ask(self, port, path, body=None, timeout=5.0):
        """Status and text of an answer; OSError where there is none."""
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        with contextlib.closing(connection):
            try:
                data = None if body is None else json.dumps(body)
                connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from error

    def asked_by_load_balancers(self, name):
        """HTTP status of /ready."""
        return self.ask(AGENT_PORT, f"/ready/{name}")[0]

    def agent_check(self, line):
        with socket.create_connection((self.address, AGENT_PORT), timeout=5) as connection:
            connection.sendall(f"{line}\n".encode())
            return connection.makefile().readline().strip()

    def status(self, name):
        """What the agent says of an instance."""
        page = json.loads(self.ask(AGENT_PORT, "/status")[1])
        return next(found for found in page["instances"] if found["instance"] == name)

    def simulator(self, name, **orders):
        """The state of a simulated server, after it has followed the orders."""
        return json.loads(self.ask(PORTS[name], "/simulator", orders or None)[1])

    def server(self, name):
        """Pid of an instance's API server, by its runtime."""
        return int(self.run(f"systemctl show --property MainPID --value vllm@{name}"))

    def agent(self):
        return int(self.run("systemctl show --property MainPID --value vllm-node-agent"))

    def serves(self, name):
        return self.ask(PORTS[name], "/health")[0] == 200 and self.completes(name)

    def completes(self, name):
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        return self.ask(PORTS[name], "/v1/completions", body)[0] == 200

    def send(self, name, text):
        """A request that may well find no answer."""
        with contextlib.suppress(OSError):
            self.ask(PORTS[name], "/v1/completions", text, timeout=20)

    @contextlib.contextmanager
    def memory_limit(self, name, megabytes=4):
        """As long as the block lasts, the instance's server may not take more memory than that."""
        pid, unit = self.server(name), f"vllm@{name}"
        if self.host.file("/sys/fs/cgroup/cgroup.controllers").exists:
            self.run(f"systemctl set-property --runtime {unit} MemoryMax={megabytes}M")
            try:
                yield
            finally:
                self.run(f"systemctl set-property --runtime {unit} MemoryMax=90%")
            return
        # Version 1 of control groups, of which systemd in a container can use none.
        place = "/run/limit"
        self.run(f"mkdir -p {place} && mount -t cgroup -o memory limit {place} && mkdir {place}/test")
        try:
            for process in [str(pid), *self.run(f"pgrep --parent {pid}").split()]:
                self.run(f"echo {process} >{place}/test/cgroup.procs")
            self.run(f"echo {megabytes}M >{place}/test/memory.limit_in_bytes")
            yield
        finally:
            self.run(f"while ! rmdir {place}/test; do sleep 0.2; done; umount {place}")

    def wait(self, condition, seconds=PATIENCE_SECONDS):
        """Wait until something holds; what cannot be asked does not hold. Returns the seconds."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError, StopIteration):
                if condition():
                    return time.monotonic() - began
            assert time.monotonic() < began + seconds, f"not within {seconds} s"
            time.sleep(0.2)

    def ready(self, name):
        self.wait(lambda: self.status(name)["ready"])
        return self.status(name)

    def healed(self, name, before):
        """Wait until another server is ready; what the agent says of it."""
        self.wait(lambda: self.status(name)["server"] not in ("", before["server"]) and self.status(name)["ready"])
        assert self.serves(name)
        return self.status(name)

    @contextlib.contextmanager
    def flood(self, name, count, pause=0.0):
        """Requests of many tokens, each from a client of its own, that come in one after another."""
        over = threading.Event()
        connections = []

        def ask():
            body = json.dumps({"model": name, "prompt": "a", "max_tokens": 4000, "ignore_eos": True}).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            for _number in range(count):
                if over.wait(pause):
                    return
                connection = socket.create_connection((self.address, PORTS[name]), timeout=5)
                connections.append(connection)
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            try:
                if not pause:
                    asking.result()
                yield
            finally:
                over.set()
                asking.exception()
            for connection in connections:
                connection.close()

    def gpus(self, name):
        """As long as the block lasts the host has GPUs, and the instance the first of them."""
        return fake_gpus.installed(self.host.backend.name, name)

    @contextlib.contextmanager
    def load_of(self, name, seconds):
        """As long as the block lasts, the instance's server takes that long to load."""
        folder = f"/run/systemd/system/vllm@{name}.service.d"
        self.run(f"mkdir -p {folder}")
        self.run(f"printf '[Service]\\nEnvironment=SIM_LOAD_SECONDS={seconds}\\n' >{folder}/load.conf")
        self.run("systemctl daemon-reload")
        try:
            yield
        finally:
            self.run(f"rm -r {folder}")
            self.run("systemctl daemon-reload")

    def told(self):
        """What hooks have been told."""
        lines = self.run("journalctl --identifier=told --output=cat --no-pager").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


Fault = Callable[[Node], object]


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> dict[tuple[str, Fault], Future]:
    """Every chosen fault, injected into every host."""
    chosen = [
        item.callspec.params["fault"] for item in request.session.items if "fault" in getattr(item, "fixturenames", ())
    ]
    faults = list(dict.fromkeys(chosen))
    found: dict[tuple[str, Fault], Future] = {}
    nodes = {name: Node(testinfra.get_host(name)) for name in request.config.getoption("hosts").split(",")}

    def work(name: str, pool: ThreadPoolExecutor) -> None:
        beside = [fault for fault in faults if not getattr(fault, "alone", False)]
        for fault in beside:
            found[name, fault] = pool.submit(_timed, fault, nodes[name])
        for fault in beside:
            found[name, fault].exception()
        for fault in faults:
            if fault not in beside:
                found[name, fault] = pool.submit(_timed, fault, nodes[name])
                found[name, fault].exception()

    with ThreadPoolExecutor(64) as pool:
        for running in [pool.submit(work, name, pool) for name in nodes]:
            running.result()
    return found


def _timed(fault: Fault, node: Node) -> tuple[float, object]:
    began = time.monotonic()
    noted = fault(node)
    return time.monotonic() - began, noted
