# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: makes sure that a server can start, then becomes it.

`check` runs as root before each start, and `run` as the service user: see the program in command.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from .._driver import look as driver_look
from .._driver.faults import faults
from .._gpu import start
from .._gpu.look import look
from . import files, process
from . import instance as instances
from .instance import Instance

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Environment variable of systemd: where the copies of its files are that a unit is given."""
LEFTOVER_SECONDS = 10
GPU_SECONDS = 10
REFUSAL_SECONDS = 1
"""A start that is refused takes this long: the runtime tries again at once, which is right for a server that ended."""
COMMANDS = {
    "cuda": ["bin/vllm", "serve"],
    # The CPU build's distribution is not named vllm, which its own command stumbles over.
    "image": ["vllm", "serve"],
    "cpu": ["bin/python", "-m", "vllm.entrypoints.openai.api_server"],
}


class CannotStart(Exception):
    """A start would fail or do harm; the message says why and what to do."""


def check(instance: Instance) -> None:
    """Remove what an earlier server of this instance left; refuse where a start cannot succeed."""
    try:
        _check(instance)
    except CannotStart as error:
        _note_obstacle(instance, str(error))
        raise
    _note_obstacle(instance, "")


def _note_obstacle(instance: Instance, obstacle: str) -> None:
    """For the node's watchers; a full disk must not keep a server from its start."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(instance.obstacle_path)
    if obstacle:
        # The directory is the service user's: root follows no link that lies there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with contextlib.suppress(OSError), open(os.open(instance.obstacle_path, flags, 0o644), "w") as stream:
            stream.write(obstacle)


def _check(instance: Instance) -> None:
    running = instance.recorded()
    if process.living(running) and process.belongs_to(running, instance.name):
        raise CannotStart(f"its server runs already (pid {running}): stop that one first")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(instance.stopping_path)
    credentials = os.environ.get(CREDENTIALS)
    if credentials and not os.path.exists(os.path.join(credentials, f"{instance.name}.json")):
        raise CannotStart(
            "systemd cannot hand it its files, as the mounts of this container are private:"
            " run `mount --make-rshared /` in it before systemd starts"
        )
    remove_leftovers(instance)
    listeners = process.listeners({instance.port})
    if instance.port in listeners:
        holder = listeners[instance.port]
        # From inside a container nobody else's processes are seen.
        who = f"{holder.name} (pid {holder.pid})" if holder else "a program outside the container"
        raise CannotStart(f"port {instance.port} is held by {who}: stop it, or give the instance another port")
    trouble = gpu_trouble(instance)
    if trouble:
        raise CannotStart(trouble)
    shm = os.statvfs("/dev/shm")
    free = shm.f_bavail * shm.f_frsize
    if free < instance.shm_bytes:
        raise CannotStart(
            f"/dev/shm has {free >> 20} MiB free and {instance.shm_bytes >> 20} MiB are needed: enlarge it"
        )


def gpu_trouble(instance: Instance) -> str:
    """What of its GPUs keeps it from its start; empty where nothing does, or none was given to it."""
    if not instance.gpus or environment_of(instance)[1] == "cpu":
        return ""
    # What takes the GPUs away at the next boot is said, but keeps no server down that can start now.
    for fault in () if instance.image else faults(driver_look.files()).values():
        sys.stderr.write(f"{fault}\n")
    return start.obstacle(look(GPU_SECONDS), gpus_seen(instance), instance.gpu_memory_share)


def gpus_seen(instance: Instance) -> list[int]:
    """The numbers of its GPUs for the server: a container has these alone, and counts them anew."""
    return list(range(len(instance.gpus))) if instance.image else instance.gpus


def environment_of(instance: Instance) -> tuple[str, str]:
    """Directory and variant of the virtual environment that a start uses; of an image neither is known."""
    if instance.vllm_in_image:
        return "", "image"
    # Resolved once: a later switch of `current` must not change modules under a running server.
    venv = instance.venv or os.path.realpath(os.path.join(instance.root, "current"))
    with open(os.path.join(venv, ".inferops.json"), encoding="utf-8") as stream:
        return venv, json.load(stream)["variant"]


def remove_leftovers(instance: Instance) -> None:
    """Kill the engines of an earlier server of this instance."""
    left = process.leftovers(instance.name)
    for found in left:
        sys.stderr.write(f"removing {found.name} (pid {found.pid}), left by an earlier server\n")
        try:
            os.kill(found.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    stuck = process.wait_gone([found.pid for found in left], LEFTOVER_SECONDS)
    if stuck:
        raise CannotStart(
            f"process {stuck[0]} of an earlier server does not die and may hold GPU memory: reboot the node"
        )


def run(instance: Instance) -> None:
    """Become the server. Does not return."""
    venv, variant = environment_of(instance)
    program, *arguments = COMMANDS[variant]
    _record(instance, venv)
    argv = [os.path.join(venv, program), *arguments, "--config", instance.config_path]
    # Of an image the program is looked for on its own PATH.
    os.execvpe(argv[0], argv, {**os.environ, **instance.environment, process.MARK: instance.name})


def _record(instance: Instance, venv: str) -> None:
    texts = []
    for path in (instance.config_path, instance.description_path):
        with open(path, encoding="utf-8") as stream:
            texts.append(stream.read())
    record = {
        "pid": os.getpid(),
        "digest": instances.digest(*texts),
        "venv": venv,
        "pid_namespace": process.pid_namespace(),
    }
    files.replace(instance.record_path, json.dumps(record))
