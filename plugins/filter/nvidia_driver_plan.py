# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: nvidia_driver_plan
short_description: What of NVIDIA's driver a host is to have, and what stands in the way
version_added: "0.1.0"
author: The inferops authors
description:
  - Decides from what the inventory says and what was seen on the host where the driver comes from, which packages it
    takes, and what keeps it as it is. All that the role P(inferops.vllm.nvidia_driver#role) does follows from this.
  - Touches no host.
positional: _input, settings
options:
  _input:
    description: What M(inferops.vllm.nvidia_driver_info) returned.
    type: dict
    required: true
  settings:
    description:
      - Variables of the role without their prefix, such as C(source), C(branch), C(version), C(flavour) and C(variant).
    type: dict
    required: true
  installed:
    description: Whether the packages are there, so that what is wrong with them is to be told.
    type: bool
    default: false
  modules:
    description: Whether each kernel must have its module, where O(installed=true).
    type: bool
    default: true
seealso:
  - module: inferops.vllm.nvidia_driver_info
"""

EXAMPLES = r"""
- name: Look at the driver
  inferops.vllm.nvidia_driver_info:
  register: looked

- name: Tell the packages
  ansible.builtin.debug:
    msg: "{{ (looked | inferops.vllm.nvidia_driver_plan({'branch': '580'})).packages }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems), a sentence each; C(reboot), why the host must be rebooted, empty where it need not; C(missing), what
      is to be installed; C(unheld), what is to be held.
    - C(source), C(reason), C(branch), C(flavour), C(repositories), C(preferences), C(unattended_upgrades),
      C(module_stream), C(versionlock), C(headers), C(packages) and C(services).
    - Where there are problems before anything has changed, the rest is empty, and C(source) is V(none).
  type: dict
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.module_utils._driver import plan, state


def read_settings(given: Mapping[str, Any]) -> plan.Settings:
    known = {field.name for field in fields(plan.Settings)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise AnsibleFilterError(
            f"nvidia_driver_plan: there is no setting {unknown[0]!r}; use {', '.join(sorted(known))}."
        )
    # A branch is a number to YAML, and a word here.
    words = {name: str(given[name]) for name in ("branch", "version", "container_toolkit_version") if name in given}
    fabric = {"fabricmanager": str(given["fabricmanager"]).lower()} if "fabricmanager" in given else {}
    return plan.Settings(**{**given, **words, **fabric})


def nvidia_driver_plan(
    looked: Mapping[str, Any], settings: Mapping[str, Any], installed: bool = False, modules: bool = True
) -> dict[str, Any]:
    facts, wanted = looked["driver"], read_settings(settings)
    problems = plan.check(wanted, facts)
    made = plan.Plan(source="none", reason="") if problems else plan.make(wanted, facts)
    if not problems and "transaction" in looked:
        problems = plan.check_transaction(wanted, made.source, looked["transaction"])
    elif not problems and installed:
        problems = state.after_install(facts, made, wanted.version, check_modules=modules)
    return {
        **asdict(made),
        "problems": problems,
        "missing": state.missing(facts, made, wanted),
        "unheld": state.unheld(facts),
        "reboot": state.reboot_reason(facts),
    }


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"nvidia_driver_plan": nvidia_driver_plan}
