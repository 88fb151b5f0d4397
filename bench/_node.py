# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node of the demo fleet as a bench sees it: commands in its container, its server's processes, its journal.

Containers have the machine's clock: a time of time.monotonic() means the same here, in a node, and in its journal.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INSTANCE = "tiny"
SERVER_UNIT, AGENT_UNIT = f"vllm@{INSTANCE}.service", "vllm-node-agent.service"
SERVER_PORT, AGENT_PORT = 8000, 9410
MODEL_DIR, STATE_DIR, LOG_DIR = "/var/lib/vllm/models", "/var/lib/vllm/health", "/var/log/vllm"
SETTINGS = "/etc/vllm/health.json"
LOOK_SECONDS = 0.5

# Runs on the node: one line for each new process that init started with vLLM's server in it, until its input ends.
WATCH = """
import os, select, sys, time
TICKS, seen = os.sysconf("SC_CLK_TCK"), set()
while not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as stream:
                command = stream.read()
            with open(f"/proc/{entry}/stat") as stream:
                fields = stream.read().rpartition(")")[2].split()
        except OSError:
            continue
        server = (int(entry), int(fields[19]))
        if b"vllm.entrypoints.openai.api_server" in command and fields[1] == "1" and server not in seen:
            seen.add(server)
            print(*server, server[1] / TICKS - slept, flush=True)
"""
# Runs on the node: sends a signal, and tells when.
KILL = "import os, sys, time; at = time.monotonic(); os.kill(int(sys.argv[1]), int(sys.argv[2])); print(at)"


class Failure(Exception):
    """What had to come about on a node did not."""


@dataclass(frozen=True)
class Server:
    """A process of the server, by when it started."""

    pid: int
    started: float


@dataclass(frozen=True)
class Node:
    name: str
    address: str

    @property
    def container(self) -> str:
        return f"inferops-demo-{self.name}"

    def command(self, *command: str, interactive: bool = False) -> list[str]:
        return ["docker", "exec", *(["--interactive"] if interactive else []), self.container, *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self.command(*command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"{self.name}: {' '.join(command)[:200]} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def succeeds(self, *command: str) -> bool:
        return not subprocess.run(self.command(*command), capture_output=True, check=False).returncode

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments)

    def main_pid(self, unit: str = SERVER_UNIT) -> int:
        """0 where the unit does not run."""
        return int(self.systemctl("show", "--property=MainPID", "--value", unit))

    def pids(self, title: str) -> list[int]:
        """Processes that vLLM gave such a title; the kernel keeps 15 characters of it."""
        found = (line.split(None, 1) for line in self.run("ps", "-eo", "pid=,comm=").splitlines())
        return [int(pid) for pid, name in found if name.startswith(title)]

    def send(self, number: int, pid: int) -> float:
        """Send a signal; the moment of it."""
        return float(self.run("python3", "-c", KILL, str(pid), str(number)))

    def journal(self, since: float) -> list[dict[str, Any]]:
        """What systemd and the units said from a moment on, each entry with its `at`."""
        age = time.monotonic() - since
        output = self.run("journalctl", "--quiet", "--output=json", f"--since=-{int(age) + 2}s")
        entries: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
        for entry in entries:
            entry["at"] = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
        return [entry for entry in entries if entry["at"] >= since and isinstance(entry.get("MESSAGE"), str)]

    def ask(self, method: str, path: str, body: Any = None, port: int = SERVER_PORT, timeout: float = 2) -> str | None:
        """What the node answers with status 200, None for anything else."""
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            return text if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def healthy(self) -> bool:
        return self.ask("GET", "/health") is not None

    def ready(self) -> bool:
        return self.ask("GET", f"/ready/{INSTANCE}", port=AGENT_PORT) is not None

    def completes(self) -> bool:
        body = {"model": INSTANCE, "prompt": "Are you there?", "max_tokens": 1}
        answer = self.ask("POST", "/v1/completions", body, timeout=5)
        return answer is not None and '"finish_reason":"length"' in answer.replace(" ", "")

    def metric(self, name: str) -> float | None:
        """The sum of a metric's samples, None where there are none."""
        lines = (self.ask("GET", "/metrics", timeout=30) or "").splitlines()
        samples = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return sum(samples) if samples else None

    def settings(self) -> dict[str, Any]:
        """What the node's agent was told; it knows the rest by itself."""
        settings: dict[str, Any] = json.loads(self.run("cat", SETTINGS))
        return settings


class Watch:
    """Knows every server process of a node from now on, however often the node itself is started."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._servers: dict[tuple[str, str], Server] = {}
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._process and self._process.stdin:
            self._process.stdin.close()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.is_set():
            self._process = subprocess.Popen(
                self._node.command("python3", "-c", WATCH, str(LOOK_SECONDS), interactive=True),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for line in self._process.stdout or ():
                words = line.split()
                # Docker says here as well that the node has gone.
                if len(words) == 3:
                    pid, ticks, started = words
                    self._servers.setdefault((pid, ticks), Server(int(pid), float(started)))
            self._process.wait()
            self._over.wait(LOOK_SECONDS)

    def since(self, moment: float) -> list[Server]:
        """Server processes that started after a moment, in order."""
        found = (server for server in list(self._servers.values()) if server.started > moment)
        return sorted(found, key=lambda server: server.started)


def wait(what: str, seconds: float, condition: Callable[[], object]) -> None:
    """Wait for a condition; Failure where it does not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)
