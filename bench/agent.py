# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the node agent costs: with idle instances, and under a storm of /ready while all of them hang."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from bench._run import CACHE, REPOSITORY, report, say

BENCH = "agent"
SIMULATOR = REPOSITORY / "tests" / "doubles" / "simulator" / "vllm_simulator.py"
INSTANCES = 8
SETTLE_SECONDS = 10
WAIT_SECONDS = 120
BURST_SECONDS = 0.02
ANSWER_SECONDS = 5


@dataclass
class Node:
    """A folder, simulated servers, and an agent that looks at them."""

    port: int
    agent: subprocess.Popen[bytes]
    servers: list[subprocess.Popen[bytes]]

    def ask(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_SECONDS) as answer:
            return str(answer.read().decode())

    def states(self) -> list[str]:
        return [found["state"] for found in json.loads(self.ask("/status"))["instances"]]

    def late_looks(self) -> float:
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm_agent_late_looks_total{"))

    def cpu_seconds(self) -> float:
        stat = process.stat(self.agent.pid)
        assert stat
        return stat.cpu_seconds

    def megabytes(self) -> float:
        lines = Path(f"/proc/{self.agent.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def hang(self) -> None:
        """Stop every engine."""
        for server in self.servers:
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii")
            for pid in children.split():
                os.kill(int(pid), signal.SIGSTOP)

    def wait_for(self, holds: Callable[[list[str]], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        states: list[str] = []
        while time.monotonic() < deadline:
            with contextlib.suppress(URLError, ConnectionError):
                states = self.states()
                if len(states) == len(self.servers) and holds(states):
                    return
            time.sleep(0.5)
        sys.exit(f"bench: after {WAIT_SECONDS} s the instances are {', '.join(states) or 'not known'}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _number in range(count)]
        return [int(free.getsockname()[1]) for free in sockets]


@contextlib.contextmanager
def node(count: int) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(dir=CACHE) as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        for part in ("config", "run", "state", "drain"):
            (folder / part).mkdir()
        agent_port, *ports = free_ports(count + 1)
        servers = [start_server(folder, f"n{number}", port, ends) for number, port in enumerate(ports)]
        agent = start(ends, [sys.executable, "-m", "bench._agent", str(folder), str(agent_port)], os.environ)
        yield Node(agent_port, agent, servers)


def start_server(folder: Path, name: str, port: int, ends: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    instance = Instance(
        name=name,
        port=port,
        served_model_name="m",
        user="root",
        root="/opt/vllm",
        config_dir=str(folder / "config"),
        run_dir=str(folder / "run"),
    )
    Path(instance.config_path).write_text(f"port: {port}\n", encoding="utf-8")
    command = [sys.executable, str(SIMULATOR), "--model", "m", "--port", str(port), "--enable-server-load-tracking"]
    server = start(ends, command, {**os.environ, process.MARK: name})
    Path(instance.record_path).write_text(json.dumps({"pid": server.pid}), encoding="utf-8")
    Path(instance.description_path).write_text(instance.dump(), encoding="utf-8")
    return server


def start(ends: contextlib.ExitStack, command: list[str], environment: Any) -> subprocess.Popen[bytes]:
    """A process that ends with all its children."""
    started = subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()

    ends.callback(end)
    return started


@dataclass
class Storm:
    """Requests of /ready, so many a second whatever becomes of them."""

    port: int
    rate: int
    asked: int = 0
    unavailable: int = 0
    """Answers 503, which is what there is to say of a hung instance."""
    slowest: float = 0.0
    errors: list[str] = field(default_factory=list)

    async def rage(self, seconds: float) -> None:
        tasks: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while (age := time.monotonic() - began) < seconds:
            while self.asked < age * self.rate:
                task = asyncio.get_running_loop().create_task(self._ask(self.asked % INSTANCES))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                self.asked += 1
            await asyncio.sleep(BURST_SECONDS)
        await asyncio.gather(*tasks)

    async def _ask(self, number: int) -> None:
        began = time.monotonic()
        try:
            answer = await asyncio.wait_for(self._exchange(number), ANSWER_SECONDS)
            self.unavailable += answer.startswith(b"HTTP/1.1 503 ")
        except (OSError, asyncio.TimeoutError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def _exchange(self, number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET /ready/n{number} HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.close()


def measure(seconds: float, rate: int) -> None:
    with node(INSTANCES) as found:
        found.wait_for(lambda states: set(states) == {"ready"})
        time.sleep(SETTLE_SECONDS)
        say(f"{INSTANCES} idle instances, {seconds:g} s, load average {os.getloadavg()[0]:.1f}")
        began, cpu = time.monotonic(), found.cpu_seconds()
        time.sleep(seconds)
        report(BENCH, "idle_cpu", 100 * (found.cpu_seconds() - cpu) / (time.monotonic() - began), "%")
        report(BENCH, "idle_memory", found.megabytes(), "MB")
        report(BENCH, "idle_late_looks", found.late_looks(), "looks")

        say("waiting until all of them are seen to hang")
        found.hang()
        found.wait_for(lambda states: not {"ready", "busy"} & set(states))
        say(f"{rate} requests a second, {seconds:g} s, load average {os.getloadavg()[0]:.1f}")
        late, memory, cpu = found.late_looks(), found.megabytes(), found.cpu_seconds()
        storm, began = Storm(found.port, rate), time.monotonic()
        asyncio.run(storm.rage(seconds))
        lasted = time.monotonic() - began
        report(BENCH, "storm_requests", storm.asked / lasted, "1/s")
        report(BENCH, "storm_unanswered", storm.asked - storm.unavailable, "requests")
        report(BENCH, "storm_slowest", storm.slowest, "s")
        report(BENCH, "storm_cpu", 100 * (found.cpu_seconds() - cpu) / lasted, "%")
        report(BENCH, "storm_late_looks", found.late_looks() - late, "looks")
        report(BENCH, "storm_memory_growth", found.megabytes() - memory, "MB")
        if storm.errors:
            say(f"the first of {len(storm.errors)} errors: {storm.errors[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench agent", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each of the two parts (default: %(default)g)")
    parser.add_argument("--rate", type=int, default=500, help="requests a second (default: %(default)s)")
    arguments = parser.parse_args()
    measure(arguments.seconds, arguments.rate)


if __name__ == "__main__":
    main()
