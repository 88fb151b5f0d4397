# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-instance: what operators and runtimes start, stop and look at an instance with, whatever keeps it.

`start`, `stop`, `restart`, `status` and `log` are for operators. For the runtimes, `check` runs as root before each
start and `run` as the service user; `tend` does both as root and stays until the server has gone; `keep` tends one
after another. In a container `contain` tends as the service user, and `healthy` is the check of its health.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import replace

from . import contain, launch, runtime
from . import instance as instances
from .instance import Instance
from .keep import Keeper
from .runtime import CommandFailed
from .tend import Tender

LOG_LINES = 100
MARGIN_SECONDS = 30.0
"""A runtime has what it takes to kill a server, after the time that the server has."""


def tend(instance: Instance) -> None:
    raise SystemExit(Tender(instance).run())


def keep(instance: Instance) -> None:
    Keeper(instance.name).run()


def run_contained(instance: Instance) -> None:
    raise SystemExit(contain.Contained(instance).run())


def healthy(instance: Instance) -> None:
    trouble = contain.trouble(instance)
    if trouble:
        raise SystemExit(trouble)


def start(instance: Instance) -> None:
    asyncio.run(runtime.of(instance).keep(instance.name))


def stop(instance: Instance) -> None:
    asyncio.run(runtime.of(instance).halt(instance.name, instance.stop_timeout_seconds + MARGIN_SECONDS))


def restart(instance: Instance) -> None:
    asyncio.run(runtime.of(instance).renew(instance.name, instance.stop_timeout_seconds + MARGIN_SECONDS))


def status(instance: Instance) -> None:
    unit = asyncio.run(runtime.of(instance).units([instance.name]))[instance.name]
    pid = instance.recorded() if unit.state in ("running", "stopping") else 0
    told = [unit.state, f"pid {pid}" if pid else "", f"{unit.restarts} restarts", unit.detail]
    sys.stdout.write(", ".join(filter(None, told)) + "\n")


def log(instance: Instance) -> None:
    sys.stdout.write(asyncio.run(runtime.of(instance).log(instance.name, LOG_LINES)) + "\n")


def look_up(name: str, verb: str) -> Instance:
    """The instance; what a unit of systemd runs as the service user sees its own files alone, as credentials."""
    folder = os.environ.get(launch.CREDENTIALS) if verb == "run" else None
    return replace(instances.load(name, folder), config_dir=folder) if folder else instances.load(name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm-instance", description=__doc__)
    verbs = {
        "start": start,
        "stop": stop,
        "restart": restart,
        "status": status,
        "log": log,
        "check": launch.check,
        "run": launch.run,
        "tend": tend,
        "keep": keep,
        "contain": run_contained,
        "healthy": healthy,
    }
    parser.add_argument("verb", choices=list(verbs))
    parser.add_argument("name")
    arguments = parser.parse_args()
    try:
        verbs[arguments.verb](look_up(arguments.name, arguments.verb))
    except (launch.CannotStart, CommandFailed, OSError, ValueError) as error:
        if verbs[arguments.verb] in (launch.check, launch.run):
            time.sleep(launch.REFUSAL_SECONDS)
        raise SystemExit(f"vllm-instance: {arguments.name}: {error}") from error
