# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container of an instance, as the Docker engine is told to make it."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import resource
from collections.abc import Mapping
from typing import Any

from . import process
from .dockerd import LABEL
from .instance import Instance

DEFINITION_LABEL = "inferops.vllm.definition"
"""Tells a container that was made by an older definition."""
STOP_MARGIN_SECONDS = 15
"""The parent of the server kills what is left of it before."""
CHECK_SECONDS = 30
CHECK_TIMEOUT_SECONDS = 25
CHECK_RETRIES = 3
LOG_OPTIONS = {"max-size": "50m", "max-file": "11"}
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NANOSECONDS = 10**9


def definition(instance: Instance, cdi: bool, dev: str = "/dev") -> dict[str, Any]:
    """The body of the engine's request for a container.

    :param cdi: Whether the engine hands out devices by CDI, which a reload of systemd does not take away again.
    """
    user = pwd.getpwnam(instance.user)
    command = ["python3", "-I", os.path.join(instance.root, "bin", "vllm-instance")]
    memory = memory_bytes(instance.memory_max, total_bytes())
    asked = {
        "Image": instance.image,
        "Entrypoint": [*command, "contain"],
        "Cmd": [instance.name],
        "User": f"{user.pw_uid}:{user.pw_gid}",
        # An image of others does not know the user.
        "Env": [f"HOME={instance.working_dir}", f"USER={user.pw_name}", f"LOGNAME={user.pw_name}", "LANG=C.UTF-8"],
        "WorkingDir": instance.working_dir,
        "StopSignal": "SIGTERM",
        "StopTimeout": instance.stop_timeout_seconds + STOP_MARGIN_SECONDS,
        "Healthcheck": {
            "Test": ["CMD", *command, "healthy", instance.name],
            "Interval": CHECK_SECONDS * NANOSECONDS,
            "Timeout": CHECK_TIMEOUT_SECONDS * NANOSECONDS,
            "StartPeriod": instance.start_grace_seconds * NANOSECONDS,
            "Retries": CHECK_RETRIES,
        },
        "HostConfig": {
            # A server whose engine died exits 0.
            "RestartPolicy": {"Name": "always"},
            "Init": True,
            # The node's agent and its load balancers reach the server as they reach any other.
            "NetworkMode": "host",
            "ReadonlyRootfs": True,
            # Kernels are compiled there, and loaded from the cache.
            "Tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "GroupAdd": [str(entry.gr_gid) for entry in grp.getgrall() if user.pw_name in entry.gr_mem],
            # As large as the node's own would be; it takes what is used.
            "ShmSize": total_bytes() // 2,
            "Memory": memory,
            # What is over the limit is to be killed, and not to be swapped for hours.
            "MemorySwap": memory,
            "Ulimits": limits(instance),
            "LogConfig": {"Type": "json-file", "Config": LOG_OPTIONS},
            "Mounts": mounts(instance),
            **gpus(instance, cdi, dev),
        },
    }
    told = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return {**asked, "Labels": {LABEL: instance.name, DEFINITION_LABEL: told}}


def mounts(instance: Instance) -> list[dict[str, Any]]:
    """Every path is the same inside and outside."""
    readable = [instance.root, instance.config_dir, *instance.read_only_paths]
    writable = [instance.run_dir, instance.working_dir]
    return [
        {"Type": "bind", "Source": path, "Target": path, "ReadOnly": path in readable}
        for path in dict.fromkeys((*readable, *writable))
    ]


def gpus(instance: Instance, cdi: bool, dev: str = "/dev") -> dict[str, Any]:
    """Those of the instance and no others; all of the node where it names none."""
    control = os.path.join(dev, "nvidiactl")
    if not instance.gpus and not os.path.exists(control):
        return {}
    chosen = [str(index) for index in instance.gpus]
    if cdi:
        return {
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={name}" for name in chosen or ["all"]]}]
        }
    request = {"Driver": "nvidia", "Capabilities": [["gpu", "utility", "compute"]]}
    count = {"DeviceIDs": chosen} if chosen else {"Count": -1}
    return {"DeviceRequests": [{**request, **count}], "Devices": devices(chosen, dev)}


def devices(chosen: list[str], dev: str) -> list[dict[str, str]]:
    """What the toolkit adds behind the engine's back is lost at a reload of systemd, unless the engine knows it too."""
    numbered = chosen or sorted(name[6:] for name in os.listdir(dev) if re.fullmatch(r"nvidia\d+", name))
    names = [*(f"nvidia{number}" for number in numbered), "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
    paths = [os.path.join(dev, name) for name in names]
    return [
        {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
        for path in paths
        if os.path.exists(path)
    ]


def limits(instance: Instance) -> list[dict[str, Any]]:
    wanted = {"nofile": instance.open_files_max, "memlock": -1}
    if not process.capable(process.CAP_SYS_RESOURCE):
        # An engine that is in a container itself may not lift a limit.
        wanted = {"nofile": min(instance.open_files_max, resource.getrlimit(resource.RLIMIT_NOFILE)[1])}
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in wanted.items()]


def memory_bytes(limit: str, total: int) -> int:
    """A limit as MemoryMax= of systemd takes it; 0 for none."""
    if limit in ("", "infinity"):
        return 0
    found = re.fullmatch(r"(\d+)([KMGT%]?)", limit)
    if not found:
        raise ValueError(f"memory_max is {limit}: give bytes, with K, M, G or T, a percentage as 90%, or infinity")
    number, unit = int(found[1]), found[2]
    return total * number // 100 if unit == "%" else number * UNITS[unit]


def total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def made_by(labels: Mapping[str, str]) -> str:
    """Which definition a container was made by."""
    return labels.get(DEFINITION_LABEL, "")
