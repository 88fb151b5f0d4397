# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the driver once its packages are there, and what is still to be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._inventory.wording import sentence
from . import names, plan
from .faults import half_installed, missing_module, mixed, upstream


def after_install(facts: Mapping[str, Any], wanted: plan.Plan, version: str, *, check_modules: bool) -> list[str]:
    """What is wrong once the packages are there, but for the reboot that they may ask for."""
    parts = {name: found["version"] for name, found in facts["packages"].items() if names.is_part(name)}
    problems = [*half_installed(facts), *mixed(parts, wanted.source)]
    strays = {name: found for name, found in parts.items() if not plan.fits(found, version or wanted.branch + ".")}
    if strays and wanted.source == "nvidia" and not problems:
        name = min(strays)
        remedy = "have the repository offer this branch, and run the playbook inferops.vllm.driver_upgrade"
        problems.append(sentence(f"{name} is {strays[name]}, where nvidia_driver_branch is {wanted.branch}", remedy))
    if not check_modules:
        return problems
    target = next((upstream(found) for found in parts.values()), "")
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
    parts = {upstream(found["version"]) for name, found in facts["packages"].items() if names.is_part(name)}
    if facts["nouveau"]:
        return "nouveau is loaded in the place of NVIDIA's module"
    installed = next(iter(sorted(parts)), "")
    if facts["loaded"] and installed and facts["loaded"] != installed:
        return f"driver {facts['loaded']} is loaded, and {installed} is installed"
    if facts["loaded"] and facts["library"] not in ("", facts["loaded"]):
        return f"driver {facts['loaded']} is loaded, and the library is {facts['library']}"
    return ""
