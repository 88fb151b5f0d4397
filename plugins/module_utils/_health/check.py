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
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable

from .._serving import instance as instances
from .._serving import probe
from .._serving.instance import Instance

LOCK = os.path.join(instances.RUN_DIR, "health-check.lock")

RunCommand = Callable[[list[str]], str]
"""Runs a command and returns its standard output; raises OSError where it fails."""


@dataclass(frozen=True)
class Settings:
    tries: int = 3
    pause_seconds: float = 10
    timeout_seconds: float = 5


class Systemd:
    """What the check asks of the runtime."""

    def __init__(self, run_command: RunCommand) -> None:
        self._run = run_command

    def running_seconds(self, instance: Instance) -> float | None:
        """Seconds since the server was started, None where it does not run."""
        shown = self._run(["systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", instance.unit])
        properties = dict(line.split("=", 1) for line in shown.splitlines())
        if properties["ActiveState"] != "active":
            return None
        return time.monotonic() - int(properties["ActiveEnterTimestampMonotonic"]) / 1e6

    def restart(self, instance: Instance) -> None:
        self._run(["systemctl", "restart", "--no-block", instance.unit])


def check(
    instance: Instance,
    settings: Settings,
    runtime: Systemd,
    look: Callable[[Instance, float], probe.Answer] = probe.health,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Look at an instance and restart it if it fails every try; what was seen and done."""
    if runtime.running_seconds(instance) is None:
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
    age = runtime.running_seconds(instance)
    if age is None:
        return {"verdict": "stopped", **evidence}
    if age < instance.start_grace_seconds:
        return {"verdict": "loading", "running_seconds": round(age), **evidence}
    runtime.restart(instance)
    return {"verdict": "failed", "action": "restart", "running_seconds": round(age), **evidence}


def report(name: str, seen: dict[str, Any]) -> None:
    """One JSON line for whatever is not plainly healthy."""
    if seen["verdict"] != "healthy" or seen["tries"] > 1:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sys.stdout.write(json.dumps({"time": stamp, "instance": name, **seen}) + "\n")
        sys.stdout.flush()


def check_all(settings: Settings, runtime: Systemd) -> None:
    for name in instances.names():
        try:
            report(name, check(instances.load(name), settings, runtime))
        except (OSError, ValueError) as error:
            report(name, {"verdict": "unknown", "evidence": [f"{type(error).__name__}: {error}"]})


def main(run_command: RunCommand) -> None:
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
            return  # the last minute's check is still at it
        check_all(settings, Systemd(run_command))
