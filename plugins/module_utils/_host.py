# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the host itself knows: its distribution, disks, listening programs and GPUs. Looks, and changes nothing."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Collection
from typing import Any

from ._driver import look as nvidia_driver
from ._gpu import driver
from ._serving import process

# What a process of an instance shows of itself: to root its mark, to all its unit or its configuration file.
MARK = re.compile(rf"(?:^|\0){process.MARK}=([^\0]+)")
UNIT = re.compile(r"/vllm@([^/\s]+)\.service")
CONFIG = re.compile(r"/etc/vllm/instances/([^/\s\0]+)\.yaml")


def look(*, paths: Collection[str], ports: Collection[int], root: str = "/") -> dict[str, Any]:
    """Facts of the host; `root` is another directory in tests."""
    return {
        "distribution": distribution(_read(os.path.join(root, "etc/os-release"))),
        "service_manager": "systemd" if os.path.isdir(os.path.join(root, "run/systemd/system")) else "",
        "paths": {path: path_facts(path) for path in paths},
        "shm_bytes": shm_bytes(os.path.join(root, "dev/shm")),
        "is_root": os.geteuid() == 0,
        "listeners": listeners(os.path.join(root, "proc"), ports),
        "gpu_count": gpu_count(root),
        "driver": driver.loaded(root),
        "nvidia_driver": nvidia_driver.files(root),
        "docker": docker(root),
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def distribution(os_release: str) -> dict[str, str]:
    """Id, version and name, empty where the file does not say."""
    pairs = (line.partition("=") for line in os_release.splitlines())
    values = {key.strip(): value.strip().strip("'\"") for key, _separator, value in pairs}
    return {"id": values.get("ID", ""), "version": values.get("VERSION_ID", ""), "name": values.get("PRETTY_NAME", "")}


def path_facts(path: str) -> dict[str, Any]:
    """Whether a path exists, and what the filesystem that it is or would be on has left."""
    existing = os.path.abspath(path)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    return {
        "exists": os.path.exists(path),
        "device": os.stat(existing).st_dev,
        "free_bytes": shutil.disk_usage(existing).free,
    }


def shm_bytes(path: str) -> int:
    return shutil.disk_usage(path).total if os.path.ismount(path) else 0


def listeners(proc: str, ports: Collection[int]) -> list[dict[str, Any]]:
    """Who listens on these ports; `pid` is None where this user may not know."""
    return [{"port": port, **_describe(proc, found)} for port, found in process.listeners(ports, proc).items()]


def _describe(proc: str, found: process.Process | None) -> dict[str, Any]:
    if found is None:
        return {"pid": None, "program": "", "instance": ""}
    return {"pid": found.pid, "program": found.name, "instance": _instance(os.path.join(proc, str(found.pid)))}


def _instance(folder: str) -> str:
    """Name of the instance that a process belongs to, empty where it is of none."""
    for file, pattern in (("environ", MARK), ("cgroup", UNIT), ("cmdline", CONFIG)):
        found = pattern.search(_read(os.path.join(folder, file)))
        if found:
            return found.group(1)
    return ""


def docker(root: str = "/") -> dict[str, bool]:
    """Whether an engine listens, and whether anything here hands GPUs to its containers."""
    paths = ("etc/cdi/nvidia*", "var/run/cdi/nvidia*", "usr/bin/nvidia-container-runtime-hook")
    return {
        "engine": os.path.exists(os.path.join(root, "run/docker.sock")),
        "gpus": any(glob.glob(os.path.join(root, path)) for path in paths),
    }


def gpu_count(root: str = "/") -> int:
    """GPUs that programs here can use; a container may have a device node for some of the host's GPUs only."""
    nodes = [path for path in glob.glob(os.path.join(root, "dev/nvidia*")) if path.rpartition("nvidia")[2].isdigit()]
    # Before the first use after boot the driver may not have made its nodes.
    return len(nodes or glob.glob(os.path.join(root, "proc/driver/nvidia/gpus/*")))
