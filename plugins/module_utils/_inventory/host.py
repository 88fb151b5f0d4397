# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was seen on a host against what the inventory plans for it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._driver.faults import faults
from .._models.sources import NAME
from .check import Words
from .instances import Instance, read
from .models import Model
from .wording import listed, problem, sentence
from .words import check_root, check_version

ENTERPRISE_LINUX = ("almalinux", "centos", "ol", "rhel", "rocky")
DISTRIBUTIONS = {"debian": r"12|13", "ubuntu": r"22\.04|24\.04", **dict.fromkeys(ENTERPRISE_LINUX, r"9(\..*)?")}
GB = 10**9
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a host needs; each is an option of the module."""

    venv_disk_gb: float
    shm_min_gb: float
    shm_per_instance_mib: int
    driver_min: int
    """Major version; 0 where neither driver nor GPUs are to be looked at."""


@dataclass(frozen=True)
class Plan:
    """What the inventory plans for a host."""

    words: Words
    models: Mapping[str, Model]
    model_root: str
    limits: Limits

    @property
    def instances(self) -> list[Instance]:
        return read(self.words.instances)

    @property
    def root(self) -> str:
        return str(self.words.root) if not any(check_root(self.words.root)) else "/opt/vllm"

    @property
    def venv(self) -> str:
        """The file that an environment has once it is complete."""
        version = "unknown" if any(check_version(self.words.version)) else self.words.version
        return f"{self.root}/venvs/{version}/.inferops.json"

    def stored(self, instance: Instance) -> str:
        """Where the model will be; where its revision is open, the home of all revisions."""
        model = self.models.get(instance.model or "", Model(None))
        name = model.stored_as(instance.model or "")
        if not NAME.fullmatch(name):
            return self.model_root
        return "/".join(filter(None, (self.model_root, name, instance.revision)))

    @property
    def paths(self) -> list[str]:
        """What to look at on the host."""
        return sorted({self.root, self.venv, self.model_root, *map(self.stored, self.instances)})


class Need(NamedTuple):
    """Space that something will take on a disk."""

    path: str
    variable: str
    value: object
    what: str
    gigabytes: float


def check_host(plan: Plan, facts: Mapping[str, Any]) -> list[str]:
    with_gpus = plan.words.variant == "cuda" and plan.limits.driver_min > 0
    return [
        *check_distribution(facts["distribution"]),
        *check_service_manager(plan, facts["service_manager"]),
        *(check_docker(plan, facts, with_gpus=with_gpus) if plan.words.runtime == "docker" else ()),
        *check_disks(plan, facts["paths"]),
        *check_shm(plan, facts["shm_bytes"]),
        *check_ports(plan, facts["listeners"], all_visible=facts["is_root"]),
        *(check_driver(plan, facts["driver"]) if with_gpus else ()),
        *(faults(facts["nvidia_driver"]).values() if with_gpus else ()),
        *(check_gpus(plan, facts["gpu_count"]) if with_gpus else ()),
    ]


def warnings(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"port {listener['port']} is in use, and only root can tell whether by an instance: become root to know."
        for listener in facts["listeners"]
        if listener["pid"] is None and not facts["is_root"]
    ]


def check_distribution(found: Mapping[str, str]) -> Iterator[str]:
    if not re.fullmatch(DISTRIBUTIONS.get(found["id"], "(?!)"), found["version"]):
        name = found["name"] or found["id"] or "unknown"
        remedy = "use Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9"
        yield sentence(f"the distribution is {name}, which is not supported", remedy)


def check_service_manager(plan: Plan, found: str) -> Iterator[str]:
    if plan.words.runtime == "systemd" and found != "systemd":
        remedy = "boot the host with systemd as its init"
        yield problem("vllm_runtime", "systemd", "but systemd does not run on the host", remedy)


def check_docker(plan: Plan, facts: Mapping[str, Any], *, with_gpus: bool) -> Iterator[str]:
    docker, family = plan.words.docker, facts["distribution"]["id"]
    if not facts["docker"]["engine"] and docker.get("install", True) is False:
        remedy = "start Docker on the host, or have the role install it"
        yield problem("vllm_docker_install", False, "but no Docker engine answers on the host", remedy)
    elif not facts["docker"]["engine"] and family in ENTERPRISE_LINUX:
        remedy = "install Docker on the host, or use systemd"
        yield problem("vllm_runtime", "docker", "which the host's distribution does not have", remedy)
    if family in ENTERPRISE_LINUX and not docker.get("image"):
        trouble = "but images are built on Debian and Ubuntu alone"
        yield problem("vllm_docker_image", "", trouble, "name one that brings vLLM, such as vllm/vllm-openai:v0.33.0")
    if with_gpus and not facts["docker"]["gpus"]:
        trouble = "but the host has no NVIDIA container toolkit to hand GPUs to containers"
        yield problem(
            "vllm_runtime", "docker", trouble, "run the role nvidia_driver, which installs it with this runtime"
        )


def check_disks(plan: Plan, paths: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    by_disk: defaultdict[int, list[Need]] = defaultdict(list)
    for need in _needs(plan, paths):
        by_disk[paths[need.path]["device"]].append(need)
    for needs in by_disk.values():
        first, free = needs[0], paths[needs[0].path]["free_bytes"] / GB
        wanted = sum(need.gigabytes for need in needs)
        if free < wanted:
            takes = listed(f"{need.what} ({need.gigabytes:.3g} GB)" for need in needs)
            trouble = f"but the disk of {first.path} has {free:.3g} GB left for {takes}"
            remedy = f"free {wanted - free:.3g} GB more, or use another disk"
            yield problem(first.variable, first.value, trouble, remedy)


def _needs(plan: Plan, paths: Mapping[str, Mapping[str, Any]]) -> Iterator[Need]:
    """What is not there yet."""
    if not paths[plan.venv]["exists"]:
        what = f"the environment of vLLM {plan.words.version}"
        yield Need(plan.root, "vllm_root", plan.root, what, plan.limits.venv_disk_gb)
    for instance in plan.instances:
        model = plan.models.get(instance.model or "")
        if model and model.exists and not paths[plan.stored(instance)]["exists"]:
            what = f"the model of {instance.label}"
            yield Need(plan.model_root, f"{instance.where}.model", instance.model, what, model.size_bytes / GB)


def check_shm(plan: Plan, shm_bytes: int) -> Iterator[str]:
    count = len(plan.instances)
    if count == 0:
        return
    needed = max(plan.limits.shm_min_gb * GB, plan.limits.shm_per_instance_mib * MIB * count)
    if shm_bytes < needed:
        instances = f"{count} instances need" if count > 1 else "an instance needs"
        trouble = f"/dev/shm has {shm_bytes / GB:.3g} GB, but {instances} {needed / GB:.3g} GB"
        remedy = "mount it with a larger size (of a container: --shm-size), or lower preflight_shm_min_gb"
        yield sentence(trouble, remedy)


def check_ports(plan: Plan, listeners: list[dict[str, Any]], *, all_visible: bool) -> Iterator[str]:
    # An instance is no other program: one that left the inventory, or has another port now, gives the port up.
    holders = {listener["port"]: listener for listener in listeners}
    for instance in plan.instances:
        holder = holders.get(instance.port)
        if holder and not holder["instance"] and (holder["pid"] is not None or all_visible):
            remedy = "stop that program, or give the instance another port"
            yield problem(f"{instance.where}.port", instance.port, f"but {_program(holder)} listens there", remedy)


def _program(holder: Mapping[str, Any]) -> str:
    return f"{holder['program'] or 'a program'} (pid {holder['pid']})" if holder["pid"] else "another program"


def check_driver(plan: Plan, version: str) -> Iterator[str]:
    needed = plan.limits.driver_min
    remedy = f"install driver {needed} or newer"
    if not version:
        yield problem("vllm_variant", "cuda", "but the host has no NVIDIA driver loaded", remedy)
    elif int(version.partition(".")[0]) < needed:
        yield problem("vllm_variant", "cuda", f"but the host's NVIDIA driver is {version}", remedy)


def check_gpus(plan: Plan, count: int) -> Iterator[str]:
    for instance in plan.instances:
        absent = [gpu for gpu in instance.gpus if gpu >= count]
        if absent:
            have = f"no GPU {listed(absent)}, its {count} count from 0" if count else "no GPU at all"
            yield problem(
                f"{instance.where}.gpus", list(instance.gpus), f"but the host has {have}", "name GPUs that it has"
            )
