# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the driver as it is installed, a sentence each that says which command mends it.

A server that runs goes on whatever is installed; these states show at its next start, or at the next boot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .._inventory.wording import listed, sentence
from . import names

OUT_OF_STEP = "out_of_step"
REBOOT_PENDING = "reboot_pending"
HALF_INSTALLED = "half_installed"
MIXED_VERSIONS = "mixed_versions"
MODULE_MISSING = "module_missing"
KINDS = (OUT_OF_STEP, REBOOT_PENDING, HALF_INSTALLED, MIXED_VERSIONS, MODULE_MISSING)

UPGRADE = "ansible-playbook inferops.vllm.driver_upgrade --limit the host"


def faults(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each state that takes the GPUs away at the next start of a server, or at the next boot, by its kind."""
    parts = {name: found["version"] for name, found in facts["packages"].items() if names.is_part(name)}
    found = {
        **_reboot(facts),
        HALF_INSTALLED: next(half_installed(facts), ""),
        MIXED_VERSIONS: next(mixed(parts, facts["managed"] or "nvidia"), ""),
        MODULE_MISSING: next(_modules(facts), ""),
    }
    return {kind: told for kind, told in found.items() if told}


def _reboot(facts: Mapping[str, Any]) -> dict[str, str]:
    loaded, libraries = facts["loaded"], (facts["library"], facts["libcuda"])
    library = next((version for version in libraries if version not in ("", loaded)), "")
    if loaded and library:
        trouble = f"the NVIDIA driver was exchanged ({loaded} is loaded, the library is {library})"
        return {OUT_OF_STEP: sentence(trouble, f"reboot by {UPGRADE}")}
    if facts["reboot_pending"]:
        trouble = f"the host waits for a reboot ({facts['reboot_pending']})"
        return {REBOOT_PENDING: sentence(trouble, f"reboot by {UPGRADE}")}
    return {}


def half_installed(facts: Mapping[str, Any]) -> Iterator[str]:
    half = sorted(name for name, found in facts["packages"].items() if names.is_part(name) and not found["complete"])
    if half:
        yield sentence(
            f"{listed(half[:3])} {'are' if len(half) > 1 else 'is'} installed in part", "run dpkg --configure -a"
        )


def _modules(facts: Mapping[str, Any]) -> Iterator[str]:
    """A kernel without the module, where there is a driver at all."""
    if not (facts["library"] or facts["managed"]) or not any(kernel["module"] for kernel in facts["kernels"]):
        return
    without = [kernel["release"] for kernel in facts["kernels"] if not kernel["module"]]
    if without:
        yield missing_module(without[-1])


def missing_module(release: str) -> str:
    return sentence(
        f"the kernel {release} is installed without the NVIDIA module, and a boot into it would lose the GPUs",
        f"run dkms autoinstall -k {release} and look at its make.log, or remove that kernel",
    )


def mixed(versions: Mapping[str, str], source: str = "nvidia") -> Iterator[str]:
    """A sentence where parts of the driver are of several versions."""
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(versions.items()):
        if is_loose(name, source):
            continue
        by_version.setdefault(upstream(version), []).append(name)
    if len(by_version) > 1:
        told = [f"{_some(found)} {version}" for version, found in sorted(by_version.items())]
        remedy = "have the repository offer all of one version, and run the playbook inferops.vllm.driver_upgrade"
        yield sentence(f"parts of the driver are of several versions ({listed(told)})", remedy)


def _some(packages: Collection[str]) -> str:
    shown = sorted(packages)[:3]
    return listed(shown) if len(packages) <= len(shown) else f"{', '.join(shown)} and {len(packages) - len(shown)} more"


def is_loose(package: str, source: str) -> bool:
    """Whether a part may have a version of its own."""
    return source == "distro" and package in names.LOOSE


def upstream(version: str) -> str:
    """580.159.04 of 3:580.159.04-1.el9 or 580.159.04-0ubuntu1."""
    return re.split(r"[-+~]", version.rpartition(":")[2])[0]
