# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check that cron runs each minute: several tries of /health, then a restart.

Only a server that its runtime calls running, and that is past its start grace, is looked at: one that an operator
stopped stays stopped, and one that loads is left alone. A look that fails once is not a fault.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable

from .._serving import instance as instances
from .._serving import probe
from .._serving.instance import Instance

LOCK = os.path.join(instances.RUN_DIR, "health-check.lock")


@dataclass(frozen=True)
class Settings:
    tries: int = 3
    pause_seconds: float = 10
    timeout_seconds: float = 5


def running_seconds(instance: Instance) -> float | None:
    """Seconds since systemd started the server, None where it does not run."""
    command = ["systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", instance.unit]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    properties = dict(line.split("=", 1) for line in shown.splitlines())
    if properties["ActiveState"] != "active":
        return None
    return time.monotonic() - int(properties["ActiveEnterTimestampMonotonic"]) / 1e6


def restart(instance: Instance) -> None:
    subprocess.run(["systemctl", "restart", "--no-block", instance.unit], timeout=30, check=True)


def check(
    instance: Instance,
    settings: Settings,
    running: Callable[[Instance], float | None] = running_seconds,
    look: Callable[[Instance, float], probe.Answer] = probe.health,
    act: Callable[[Instance], None] = restart,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Look at an instance and restart it if it fails every try; what was seen and done."""
    age = running(instance)
    if age is None:
        return {"verdict": "stopped"}
    answers: list[probe.Answer] = []
    for number in range(settings.tries):
        if number:
            pause(settings.pause_seconds)
        answers.append(look(instance, settings.timeout_seconds))
        if answers[-1].ok:
            return {"verdict": "healthy", "tries": number + 1}
    evidence = {"tries": settings.tries, "evidence": [str(answer) for answer in answers]}
    # Asked again: the runtime itself may have restarted the server between the tries.
    age = running(instance)
    if age is None:
        return {"verdict": "stopped", **evidence}
    if age < instance.start_grace_seconds:
        return {"verdict": "loading", "running_seconds": round(age), **evidence}
    act(instance)
    return {"verdict": "failed", "action": "restart", "running_seconds": round(age), **evidence}


def report(name: str, seen: dict[str, Any]) -> None:
    """One JSON line for whatever is not plainly healthy."""
    if seen["verdict"] != "healthy" or seen["tries"] > 1:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(json.dumps({"time": stamp, "instance": name, **seen}), flush=True)


def check_all(settings: Settings) -> None:
    for name in instances.names():
        try:
            report(name, check(instances.load(name), settings))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            report(name, {"verdict": "unknown", "evidence": [f"{type(error).__name__}: {error}"]})


def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm-health-check", description=__doc__)
    parser.add_argument("--tries", type=int, default=Settings.tries)
    parser.add_argument("--pause-seconds", type=float, default=Settings.pause_seconds)
    parser.add_argument("--timeout-seconds", type=float, default=Settings.timeout_seconds)
    settings = Settings(**vars(parser.parse_args()))
    os.makedirs(instances.RUN_DIR, exist_ok=True)
    with open(LOCK, "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(0)  # the last minute's check is still at it
        check_all(settings)
