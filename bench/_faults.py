# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults that a bench injects into the first node of the demo fleet; each is undone, whatever happens."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from signal import SIGKILL, SIGSTOP
from typing import Any

from bench._client import Flood, Kind, Request
from bench._node import (
    AGENT_UNIT,
    INSTANCE,
    LOG_DIR,
    MODEL_DIR,
    SERVER_PORT,
    SERVER_UNIT,
    SETTINGS,
    STATE_DIR,
    Failure,
    Node,
    wait,
)
from tests.doubles.nvml import node as fake_gpus

HOLD_SECONDS = 20
PATIENCE_SECONDS = 300
SATURATED_SECONDS = 300
SLOW_LOAD_SECONDS = 300
# A load takes more than 30 s of a core: at a tenth of one it goes on for as long as it is held there.
SLOW_LOAD_PERCENT = 10
CLOCK_SECONDS = -3600
# More than the fleet can answer: a queue grows, within what a load balancer lets in.
FLOOD = Kind("flood", 1500)
FLOOD_PER_SECOND = 4
BENCH_DIR = "/run/bench"
ENGINE, WORKER = "VLLM::EngineCor", "VLLM::Worker"


@dataclass(frozen=True)
class Fleet:
    endpoint: str
    balancer: Node
    nodes: tuple[Node, ...]

    @property
    def victim(self) -> Node:
        return self.nodes[0]


@dataclass(frozen=True)
class Injection:
    at: float
    held_seconds: float = 0
    """How long nothing could serve, because the cause lasted."""
    requests: list[Request] | None = None
    """Those that are the fault, in place of the client's."""
    queue: float | None = None
    """The longest queue, where it is the fault."""


Inject = Callable[[Fleet], Iterator[Injection]]


@dataclass(frozen=True)
class Fault:
    name: str
    what: str
    inject: Callable[[Fleet], AbstractContextManager[Injection]] = field(repr=False)
    client: bool = True
    """Whether a client asks all the while."""
    recovers: bool = True
    """Whether something has to serve again."""
    new_server: bool = True
    """Whether it is another server process that serves in the end."""
    agent: bool = True
    """Whether the agent has to call it ready."""
    hang: bool = False
    """Whether the grace for hangs is part of the time to detect it."""
    unit: str = SERVER_UNIT
    """What systemd says of this unit is a reaction."""
    own_starts: int = 0
    """Server processes that are part of the fault."""
    gpu_look: bool = False
    """Whether two looks at the GPUs are what it may take to detect it."""


FAULTS: dict[str, Fault] = {}
GPU_FAULT: dict[str, Any] = {"new_server": False, "gpu_look": True}


def fault(name: str, what: str, **properties: Any) -> Callable[[Inject], Inject]:
    def register(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, what, contextmanager(inject), **properties)
        return inject

    return register


@fault("crash-api", "API server killed (`kill -9`)")
def crash_api(fleet: Fleet) -> Iterator[Injection]:
    yield Injection(fleet.victim.send(SIGKILL, fleet.victim.main_pid()))


@fault("crash-engine", "engine killed (`kill -9`)")
def crash_engine(fleet: Fleet) -> Iterator[Injection]:
    yield Injection(fleet.victim.send(SIGKILL, first(fleet.victim, ENGINE)))


@fault("hang-idle", "engine stopped (`kill -STOP`) while nothing is asked of it", client=False, hang=True)
def hang_idle(fleet: Fleet) -> Iterator[Injection]:
    with stopped(fleet.victim, first(fleet.victim, ENGINE)) as injection:
        yield injection


@fault("hang-load", "engine stopped (`kill -STOP`) under load", hang=True)
def hang_load(fleet: Fleet) -> Iterator[Injection]:
    with stopped(fleet.victim, first(fleet.victim, ENGINE)) as injection:
        yield injection


@fault("hang-api", "API server stopped (`kill -STOP`)", hang=True)
def hang_api(fleet: Fleet) -> Iterator[Injection]:
    with stopped(fleet.victim, fleet.victim.main_pid()) as injection:
        yield injection


@fault("hang-worker", "worker stopped (`kill -STOP`)", hang=True)
def hang_worker(fleet: Fleet) -> Iterator[Injection]:
    with stopped(fleet.victim, first(fleet.victim, WORKER)) as injection:
        yield injection


# Runs on the node: waits until one of some processes has ended, and tells when; a parent may leave it a zombie.
FIRST_END = """
import sys, time
def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] in "XZ"
    except OSError:
        return True
deadline = time.monotonic() + float(sys.argv[1])
while not any(map(ended, sys.argv[2:])):
    if time.monotonic() > deadline:
        raise SystemExit("none ended")
    time.sleep(0.02)
print(time.monotonic())
"""


@fault("memory-limit", "limit of memory hit: the kernel kills what it chooses of the server")
def memory_limit(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    server = [node.main_pid(), *node.pids("VLLM::")]
    with limited(node, "memory", "MemoryMax", "memory.limit_in_bytes", []) as limit:
        limit("64M", "0")
        # What it had before it came into a group of its own is counted elsewhere: its next page is one too many.
        for pid in server:
            limit.add(pid)
        at = float(node.run("python3", "-c", FIRST_END, "60", *map(str, server)))
        limit("infinity", "-1")
        yield Injection(at)


@fault("model-truncated", "file of the model cut short, then API server killed; mended once a start failed by it")
def model_truncated(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    weights = node.run("find", MODEL_DIR, "-name", "*.safetensors", "-print", "-quit")
    # A copy in its place: whoever else has the file keeps it whole.
    cut = 'mv "$0" "$0.bench" && head -c 1000 "$0.bench" >"$0"'
    mend = '[ ! -e "$0.bench" ] || mv "$0.bench" "$0"'
    try:
        node.run("sh", "-c", cut, weights)
        before = node.main_pid()
        at = node.send(SIGKILL, before)
        wait("a start with the file cut short", PATIENCE_SECONDS, lambda: node.main_pid() not in (0, before))
        failing = node.main_pid()
        wait("its end", PATIENCE_SECONDS, lambda: node.main_pid() != failing)
        node.run("sh", "-c", mend, weights)
        yield Injection(at, time.monotonic() - at)
    finally:
        node.succeeds("sh", "-c", mend, weights)


# Runs on the node: kills the server, and holds its port until its input ends, without an answer to anybody.
THIEF = """
import os, select, socket, sys, time
thief = socket.socket()
thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
at = time.monotonic()
os.kill(int(sys.argv[1]), 9)
while True:
    try:
        thief.bind(("", int(sys.argv[2])))
        break
    except OSError:
        time.sleep(0.01)
thief.listen()
print(at, flush=True)
select.select([sys.stdin], [], [], float(sys.argv[3]))
"""


@fault("port-stolen", f"API server killed, its port held by another program for {HOLD_SECONDS} s")
def port_stolen(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    arguments = ("python3", "-c", THIEF, str(node.main_pid()), str(SERVER_PORT), str(PATIENCE_SECONDS))
    thief = subprocess.Popen(
        node.command(*arguments, interactive=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with thief:
        assert thief.stdout
        at = float(thief.stdout.readline())
        time.sleep(HOLD_SECONDS)
    yield Injection(at, time.monotonic() - at)


@fault("disk-full", "disk full under logs and state, then engine killed")
def disk_full(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    fill = 'mount -t tmpfs -o size=16k,nr_inodes=2,mode=$(stat -c %a "$0") full "$0" && ! cat /dev/zero >"$0/full"'
    try:
        in_each_namespace(node, f"{fill} 2>/dev/null", LOG_DIR, STATE_DIR)
        yield Injection(node.send(SIGKILL, first(node, ENGINE)))
    finally:
        in_each_namespace(node, '! mountpoint -q "$0" || umount --lazy "$0"', LOG_DIR, STATE_DIR)


@fault("agent-killed", "agent killed (`kill -9`)", new_server=False, unit=AGENT_UNIT)
def agent_killed(fleet: Fleet) -> Iterator[Injection]:
    yield Injection(fleet.victim.send(SIGKILL, fleet.victim.main_pid(AGENT_UNIT)))


@fault("agent-stopped", "agent stopped (`kill -STOP`)", new_server=False, unit=AGENT_UNIT)
def agent_stopped(fleet: Fleet) -> Iterator[Injection]:
    with stopped(fleet.victim, fleet.victim.main_pid(AGENT_UNIT)) as injection:
        yield injection


@fault("cron-stopped", "cron daemon stopped, then API server killed")
def cron_stopped(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    try:
        node.systemctl("stop", "cron.service")
        yield Injection(node.send(SIGKILL, node.main_pid()))
    finally:
        node.systemctl("start", "cron.service")


@fault("cron-alone-crash", "agent switched off, then engine killed", agent=False)
def cron_alone_crash(fleet: Fleet) -> Iterator[Injection]:
    with agent_off(fleet.victim):
        yield Injection(fleet.victim.send(SIGKILL, first(fleet.victim, ENGINE)))


@fault("cron-alone-hang", "agent switched off, then engine stopped (`kill -STOP`)", agent=False, hang=True)
def cron_alone_hang(fleet: Fleet) -> Iterator[Injection]:
    with agent_off(fleet.victim), stopped(fleet.victim, first(fleet.victim, ENGINE)) as injection:
        yield injection


@fault(
    "saturated",
    f"saturated for {SATURATED_SECONDS} s, with a queue that grows and no fault",
    client=False,
    recovers=False,
    new_server=False,
)
def saturated(fleet: Fleet) -> Iterator[Injection]:
    at, queue = time.monotonic(), []
    with Flood(fleet.endpoint, INSTANCE, FLOOD, FLOOD_PER_SECOND) as flood:
        while time.monotonic() < at + SATURATED_SECONDS:
            time.sleep(10)
            queue.append(sum(node.metric("vllm:num_requests_waiting") or 0 for node in fleet.nodes))
    if not queue[-1] > max(queue[len(queue) // 2], len(fleet.nodes)):
        raise Failure(f"the queue did not grow: {queue}")
    yield Injection(at, requests=flood.requests, queue=max(queue))


@fault("slow-load", f"model that loads for {SLOW_LOAD_SECONDS} s and more, after a crash", own_starts=1)
def slow_load(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    with limited(node, "cpu", "CPUQuota", "cpu.cfs_quota_us", []) as limit:
        limit(f"{SLOW_LOAD_PERCENT}%", str(SLOW_LOAD_PERCENT * 1000))
        before = node.main_pid()
        at = node.send(SIGKILL, before)
        wait("the server's start", 60, lambda: node.main_pid() not in (0, before))
        limit.add(node.main_pid())
        time.sleep(max(0, at + SLOW_LOAD_SECONDS - time.monotonic()))
        limit("", "-1")
        yield Injection(at)


@fault("clock-back", "engine stopped under load, then the agent's clock set back by an hour", hang=True)
def clock_back(fleet: Fleet) -> Iterator[Injection]:
    """A container cannot set the kernel's clock: the agent is given one of its own, and systemd keeps the right one."""
    node, clock = fleet.victim, "/run/bench-clock"
    dropin = f"/run/systemd/system/{AGENT_UNIT}.d/bench.conf"
    node.run("sh", "-c", "[ -e /usr/share/doc/libfaketime ] || { apt-get update && apt-get install -y libfaketime; }")
    library = node.run("find", "/usr/lib", "-name", "libfaketime.so.1")
    environment = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_CACHE_DURATION=1"
    text = f"[Service]\\nEnvironment={environment} FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1\\n"
    install = f'echo +0 >{clock} && mkdir -p "${{0%/*}}" && printf "{text}" >"$0"'
    try:
        node.run("sh", "-c", install, dropin)
        restart_agent(node)
        with stopped(node, first(node, ENGINE)) as injection:
            node.run("sh", "-c", f"echo {CLOCK_SECONDS} >{clock}")
            yield injection
    finally:
        node.succeeds("rm", "-rf", dropin.rpartition("/")[0], clock)
        restart_agent(node)


@fault("gpu-lost", f"GPU of the node lost (fake driver), well again after {HOLD_SECONDS} s", **GPU_FAULT)
def gpu_lost(fleet: Fleet) -> Iterator[Injection]:
    yield from unwell(fleet.victim, handle="error 15")


@fault("gpu-drain", f"driver asks to drain the GPU (fake driver), well again after {HOLD_SECONDS} s", **GPU_FAULT)
def gpu_drain(fleet: Fleet) -> Iterator[Injection]:
    yield from unwell(fleet.victim, recovery_action="4")


def unwell(node: Node, **told: str) -> Iterator[Injection]:
    with fake_gpus.installed(node.container, INSTANCE) as gpus:
        wait(f"{node.name} is ready", PATIENCE_SECONDS, node.ready)
        at = time.monotonic()
        gpus.tell(**told)
        wait(f"{node.name} is out", PATIENCE_SECONDS, lambda: not node.ready())
        time.sleep(HOLD_SECONDS)
        gpus.heal()
        held = time.monotonic() - at
        wait(f"{node.name} is ready again", PATIENCE_SECONDS, node.ready)
        yield Injection(at, held)


@fault("node-death", f"node killed (`docker kill`), started again after {HOLD_SECONDS} s")
def node_death(fleet: Fleet) -> Iterator[Injection]:
    node = fleet.victim
    try:
        at = time.monotonic()
        subprocess.run(["docker", "kill", node.container], check=True, stdout=subprocess.DEVNULL)
        time.sleep(HOLD_SECONDS)
        subprocess.run(["docker", "start", node.container], check=True, stdout=subprocess.DEVNULL)
        yield Injection(at, time.monotonic() - at)
    finally:
        subprocess.run(["docker", "start", node.container], check=True, stdout=subprocess.DEVNULL)


def first(node: Node, title: str) -> int:
    found = node.pids(title)
    if not found:
        raise Failure(f"{node.name}: no process is called {title}")
    return found[0]


@contextmanager
def stopped(node: Node, pid: int) -> Iterator[Injection]:
    try:
        yield Injection(node.send(SIGSTOP, pid))
    finally:
        node.succeeds("kill", "-CONT", str(pid))


def in_each_namespace(node: Node, command: str, *directories: str) -> None:
    """Run a command for directories as the node sees them, and its units: each may have mounts of its own."""
    pids = [1, *filter(None, map(node.main_pid, (AGENT_UNIT, SERVER_UNIT)))]
    spaces = {node.run("readlink", f"/proc/{pid}/ns/mnt"): pid for pid in reversed(pids)}
    for pid in spaces.values():
        for directory in directories:
            node.run("nsenter", f"--mount=/proc/{pid}/ns/mnt", "sh", "-c", command, directory)


def restart_agent(node: Node) -> None:
    node.systemctl("daemon-reload")
    node.systemctl("restart", AGENT_UNIT)
    wait(f"{node.name} is ready", PATIENCE_SECONDS, node.ready)


@contextmanager
def agent_off(node: Node) -> Iterator[None]:
    """What an operator does who wants cron alone."""
    settings = node.run("cat", SETTINGS)
    write = 'umask 077 && printf %s "$1" >"$0"'
    try:
        node.run("sh", "-c", write, SETTINGS, json.dumps({**json.loads(settings), "agent_enabled": False}))
        node.systemctl("stop", AGENT_UNIT)
        yield
    finally:
        node.run("sh", "-c", write, SETTINGS, settings + "\n")
        node.systemctl("start", AGENT_UNIT)


class Limit:
    """A limit of the server's control group, or where systemd has no such controller (cgroup v1) of one made for it."""

    def __init__(self, node: Node, controller: str, word: str, file: str) -> None:
        self._node, self._word = node, word
        self.mount = f"{BENCH_DIR}/{controller}"
        self._group = f"{self.mount}/bench"
        self._file = f"{self._group}/{file}"
        self.unified = node.succeeds("test", "-e", "/sys/fs/cgroup/cgroup.controllers")

    def __call__(self, unified: str, legacy: str) -> None:
        if self.unified:
            self._node.systemctl("set-property", "--runtime", SERVER_UNIT, f"{self._word}={unified}")
        else:
            self._node.run("sh", "-c", 'echo "$1" >"$0"', self._file, legacy)

    def add(self, pid: int) -> None:
        """A process; its children go with it."""
        if not self.unified:
            self._node.run("sh", "-c", 'echo "$1" >"$0/cgroup.procs"', self._group, str(pid))

    def make(self, controller: str) -> None:
        mount = 'mkdir -p "$0" && mount -t cgroup -o "$1" "bench-$1" "$0" && mkdir -p "$0/bench"'
        self._node.run("sh", "-c", mount, self.mount, controller)

    def remove(self) -> None:
        if self.unified:
            self._node.succeeds("rm", "-rf", f"/run/systemd/system.control/{SERVER_UNIT}.d")
            self._node.systemctl("daemon-reload")
            return
        leave = 'for pid in $(cat "$0/bench/cgroup.procs"); do echo "$pid" >"$0/cgroup.procs"; done; rmdir "$0/bench"'
        self._node.succeeds("sh", "-c", f'{leave}; umount "$0" && rmdir "$0"', self.mount)


@contextmanager
def limited(node: Node, controller: str, word: str, file: str, pids: list[int]) -> Iterator[Limit]:
    """A limit for these processes, none at first; `word` is systemd's, `file` that of cgroup v1."""
    limit = Limit(node, controller, word, file)
    try:
        if not limit.unified:
            limit.make(controller)
        for pid in pids:
            limit.add(pid)
        yield limit
    finally:
        limit.remove()
