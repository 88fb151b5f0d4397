# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the driver of a host, a sentence each that says which command mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._inventory.wording import listed, sentence
from . import names, plan

UPGRADE = "ansible-playbook inferops.vllm.driver_upgrade --limit the host"


def faults(facts: Mapping[str, Any]) -> list[str]:
    """Each state that takes the GPUs away at the next start of a server, or at the next boot."""
    parts = {name: found["version"] for name, found in facts["packages"].items() if names.is_part(name)}
    return [
        *_reboot(facts),
        *_half_done(facts),
        *plan.mixed(parts, facts["managed"] or "nvidia"),
        *_modules(facts),
    ]


def _reboot(facts: Mapping[str, Any]) -> Iterator[str]:
    loaded, library = facts["loaded"], facts["library"]
    if loaded and library and loaded != library:
        yield sentence(
            f"the NVIDIA driver was exchanged ({loaded} is loaded, the library is {library})", f"reboot by {UPGRADE}"
        )
    elif facts["reboot_pending"]:
        yield sentence(f"the host waits for a reboot ({facts['reboot_pending']})", f"reboot by {UPGRADE}")


def _half_done(facts: Mapping[str, Any]) -> Iterator[str]:
    half = sorted(name for name, found in facts["packages"].items() if names.is_part(name) and not found["complete"])
    if half:
        yield sentence(
            f"{listed(half[:3])} {'are' if len(half) > 1 else 'is'} installed in part", "run dpkg --configure --all"
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


def after_install(facts: Mapping[str, Any], wanted: plan.Plan, version: str, *, check_modules: bool) -> list[str]:
    """What is wrong once the packages are there, but for the reboot that they may ask for."""
    parts = {name: found["version"] for name, found in facts["packages"].items() if names.is_part(name)}
    problems = [*_half_done(facts), *plan.mixed(parts, wanted.source)]
    strays = {name: found for name, found in parts.items() if not plan.fits(found, version or wanted.branch + ".")}
    if strays and wanted.source == "nvidia" and not problems:
        name = min(strays)
        remedy = "have the repository offer this branch, and run the playbook inferops.vllm.driver_upgrade"
        problems.append(sentence(f"{name} is {strays[name]}, where nvidia_driver_branch is {wanted.branch}", remedy))
    if not check_modules:
        return problems
    target = next((plan.upstream(found) for found in parts.values()), "")
    for release, module in facts["modules"].items():
        if not module:
            problems.append(missing_module(release))
        elif target and module not in (target, "unknown"):
            trouble = f"the module of kernel {release} is {module}, and the packages are {target}"
            problems.append(sentence(trouble, f"run dkms autoinstall -k {release}, or remove that kernel"))
    return problems


def missing(facts: Mapping[str, Any], wanted: plan.Plan, settings: plan.Settings) -> list[str]:
    """Packages to install, by the names that the package manager is asked for."""
    there = {name for name, found in facts["packages"].items() if found["complete"]}
    parts = {name: found["version"] for name, found in facts["packages"].items() if names.is_part(name)}
    version = settings.version or wanted.branch + "."
    exchanged = wanted.source == "nvidia" and not all(plan.fits(found, version) for found in parts.values())
    packages = [*wanted.headers, *wanted.packages]
    return packages if exchanged else [name for name in packages if name not in there]


def unheld(facts: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, found in facts["packages"].items() if names.is_part(name) and not found["held"])


def reboot_reason(facts: Mapping[str, Any]) -> str:
    """Why the host must be rebooted before it can serve with what is installed; empty where it need not be."""
    parts = {plan.upstream(found["version"]) for name, found in facts["packages"].items() if names.is_part(name)}
    if facts["nouveau"]:
        return "nouveau is loaded in the place of NVIDIA's module"
    installed = next(iter(sorted(parts)), "")
    if facts["loaded"] and installed and facts["loaded"] != installed:
        return f"driver {facts['loaded']} is loaded, and {installed} is installed"
    if facts["loaded"] and facts["library"] not in ("", facts["loaded"]):
        return f"driver {facts['loaded']} is loaded, and the library is {facts['library']}"
    return ""
