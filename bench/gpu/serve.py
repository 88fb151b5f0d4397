# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on this host and its GPU: site.yml brings up a large model and one that takes pictures, both are asked,
then one server after another is broken, and the time is told until it serves again without anybody's help."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import cuda, look
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as instances
from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from bench._run import CACHE, REPOSITORY, report, say
from bench._run import run as run_logged

INVENTORY = Path(__file__).with_name("inventory.yml")
MODELS = Path("/srv/models")
AGENT_PORT = 9410
LARGE, PICTURES = "large", "pictures"
READY_SECONDS = 400
LOOK_SECONDS = 0.1


def playbook(name: str, *arguments: str) -> tuple[float, str]:
    """Seconds that a playbook took, and what it printed."""
    log = CACHE / "logs" / f"gpu-{name.replace('/', '-')}.log"
    # Ansible as a module: where it was unpacked, its programs have no interpreter.
    command = (sys.executable, "-m", "ansible", "playbook", "-i", str(INVENTORY), *arguments, name)
    return run_logged(log, *command), log.read_text(encoding="utf-8")


# Before it joins


def accept() -> None:
    """gpu_acceptance.yml while nothing runs."""
    seconds, output = playbook("playbooks/gpu_acceptance.yml")
    (line,) = (json.loads(line) for line in output.splitlines() if line.startswith('{"host"'))
    report("gpu", "acceptance/seconds", seconds, "s")
    print(json.dumps(line), flush=True)


def site() -> None:
    """site.yml, and once more: the second run must change nothing."""
    from bench.gpu import models  # its library is vLLM's

    models.write(MODELS)
    # Packages and environment are there: such a host may have no network.
    arguments = ("--skip-tags", "vllm_venv,supervisord_install,health_check_install")
    seconds, output = playbook("site.yml", *arguments)
    report("gpu", "site/first", seconds, "s")
    for name in (LARGE, PICTURES):
        report("gpu", f"site/start-{name}", start_seconds(name), "s")
    seconds, output = playbook("site.yml", *arguments)
    report("gpu", "site/second", seconds, "s")
    if "changed=0 " not in output:
        sys.exit(f"bench: the second run of site.yml changed something: {output[-2000:]}")


# Asked


def ask() -> None:
    """Text of the large model, and what the other sees in a picture."""
    answered(8000, LARGE, "Say something.")
    picture = f"data:image/png;base64,{base64.b64encode(png(224)).decode()}"
    answered(8001, PICTURES, [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "What?"}])


def answered(port: int, name: str, content: Any) -> None:
    message = {"model": name, "max_tokens": 16, "ignore_eos": True, "messages": [{"role": "user", "content": content}]}
    began = time.monotonic()
    answer = call(f"http://127.0.0.1:{port}/v1/chat/completions", message)
    usage = answer["usage"]
    if usage["completion_tokens"] != 16:
        sys.exit(f"bench: {name} told {usage}")
    report("gpu", f"ask/{name}", time.monotonic() - began, "s")
    report("gpu", f"ask/{name}-prompt", usage["prompt_tokens"], "tokens")


def png(side: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xc8\x40\x20" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


# What the agent costs


def agent(seconds: float = 30) -> None:
    """Its processor time, children included, and its memory, while it looks at two idle servers and their GPU."""
    listener = process.listeners({AGENT_PORT})[AGENT_PORT]
    if listener is None:
        sys.exit("bench: only root can tell which process the agent is")
    pid = listener.pid
    before = spent(pid)
    time.sleep(seconds)
    report("gpu", "agent/cpu", (spent(pid) - before) / seconds * 100, "%")
    status = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2]
    report("gpu", "agent/memory", int(status.split()[0]) / 1024, "MiB")


def spent(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / process.TICKS_PER_SECOND


# Broken


def crash() -> None:
    """The API server of the large model is killed: its engine must not keep the GPU's memory."""
    recovers("crash", LARGE, lambda: os.kill(server(LARGE), signal.SIGKILL))


def hang() -> None:
    """Its engine stands still, while /health says that all is well."""
    recovers("hang", LARGE, lambda: os.kill(engine(LARGE), signal.SIGSTOP))


def orphan() -> None:
    """Its API server is killed and its engine stopped, so that this cannot leave by itself and holds the memory."""

    def strike() -> None:
        stopped = engine(LARGE)
        os.kill(stopped, signal.SIGSTOP)
        report("gpu", "orphan/held", used_bytes() / 1e9, "GB")
        os.kill(server(LARGE), signal.SIGKILL)

    recovers("orphan", LARGE, strike)


def foreign() -> None:
    """Somebody else's program takes the memory of a server that has ended: it is not started before that has gone."""
    hog = subprocess.Popen([sys.executable, "-c", "from bench.gpu import serve; serve.take_all()"], cwd=REPOSITORY)
    try:
        await_that(lambda: free_bytes() < 2 << 30, "the memory is taken")
        os.kill(server(PICTURES), signal.SIGKILL)
        obstacle = Path(instances.RUN_DIR) / f"{PICTURES}.obstacle"
        await_that(lambda: obstacle.exists() and "MiB" in obstacle.read_text(), "the start is refused")
        say(f"refused: {obstacle.read_text()}")
        time.sleep(10)
    finally:
        hog.kill()
        hog.wait()
    freed = time.monotonic()
    await_that(lambda: ready(PICTURES), "it serves again")
    started = start_seconds(PICTURES)
    report("gpu", "foreign/until-started", time.monotonic() - freed - started, "s")
    report("gpu", "foreign/load", started, "s")


def take_all() -> None:
    """All memory of the first GPU, and what others let go."""
    node = look.look(20)
    device = cuda.Device(cuda.Cuda(), node.gpus[0].pci_address or "")
    size = 1 << 30
    while True:
        try:
            device.allocate(size)
        except cuda.CudaError:
            size = max(size // 2, 64 << 20)
            time.sleep(0.02)


def recovers(case: str, name: str, strike: Callable[[], None]) -> None:
    old = server(name)
    began = time.monotonic()
    strike()
    await_that(lambda: server(name) not in (0, old) and ready(name), f"{name} serves again after {case}")
    total = time.monotonic() - began
    load = start_seconds(name)
    report("gpu", f"{case}/serves-again", total, "s")
    report("gpu", f"{case}/load", load, "s")
    report("gpu", f"{case}/until-started", total - load, "s")
    report("gpu", f"{case}/used", used_bytes() / 1e9, "GB")


def server(name: str) -> int:
    """Process of the API server, 0 where none runs."""
    try:
        pid = int(json.loads(Path(instances.RUN_DIR, f"{name}.json").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return 0
    return pid if process.living(pid) else 0


def engine(name: str) -> int:
    return next(
        found.pid
        for found in process.processes()
        if found.name.startswith(process.TITLE) and process.belongs_to(found.pid, name)
    )


def start_seconds(name: str) -> float:
    """What the present server took from its start until it served; asked right after that."""
    stat = process.living(server(name))
    return process.age_seconds(stat.start_ticks) if stat else 0.0


def ready(name: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{AGENT_PORT}/ready/{name}", timeout=5):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def await_that(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"bench: not within {READY_SECONDS} s: {what}")
        time.sleep(LOOK_SECONDS)


def free_bytes() -> int:
    return look.look(20).gpus[0].memory_free_bytes or 0


def used_bytes() -> int:
    return look.look(20).gpus[0].memory_used_bytes or 0


PARTS: dict[str, Callable[[], None]] = {
    part.__name__: part for part in (accept, site, ask, agent, crash, hang, orphan, foreign)
}
"""In this order: those behind `site` need what it has set up."""
