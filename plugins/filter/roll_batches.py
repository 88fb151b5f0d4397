# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: roll_batches
short_description: How many nodes a roll takes at a time
version_added: "0.1.0"
author: The inferops authors
description:
  - Turns the sizes that batches may have into those that they can have, so that enough nodes are left that serve the
    same instances.
  - Reads the inventory alone. Whether the other nodes do serve is asked when a batch begins.
positional: _input, hostvars, nodes
options:
  _input:
    description: Names of the nodes to roll, in their order.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variable C(hostvars).
      - Of each node, C(vllm_instances) says what it runs. Of the first one to roll, C(vllm_roll_batches) has the sizes,
        numbers or percentages of the nodes to roll, of which the last one repeats, V([1, '25%', '100%']) without it,
        and C(vllm_roll_min_ready) the number or percentage of the nodes with an instance that serve it at any time,
        V(50%) without it.
    type: dict
    required: true
  nodes:
    description: Names of all nodes of the fleet.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Restart the nodes, some at a time
  hosts: vllm_nodes
  order: sorted
  serial: "{{ groups['vllm_nodes'] | sort | inferops.vllm.roll_batches(hostvars, groups['vllm_nodes']) }}"
"""

RETURN = r"""
_value:
  description: Sizes of the batches, one after the other.
  type: list
  elements: int
  sample: [1, 2, 5, 2]
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.plugin_utils.capacity import count

BATCHES = (1, "25%", "100%")
MIN_READY = "50%"


def names_of(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {str(instance["name"]) for instance in hostvars[host].get("vllm_instances") or []}


def missing_at_most(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], nodes: Iterable[str], min_ready: Any
) -> dict[str, int]:
    """How many nodes may be out at once, by the instance that they run."""
    running: dict[str, int] = {}
    for node in nodes:
        for name in names_of(node, hostvars):
            running[name] = running.get(name, 0) + 1
    spare = {name: total - count("vllm_roll_min_ready", min_ready, total, up=True) for name, total in running.items()}
    for name in sorted({name for host in hosts for name in names_of(host, hostvars)}):
        if spare.get(name, 0) < 1:
            total = running.get(name, 0)
            raise AnsibleFilterError(
                f"{name} runs on {total} node{'s' if total != 1 else ''}, and vllm_roll_min_ready ({min_ready}) says"
                " how many serve at any time: no node can be taken out. Add nodes, or accept that requests fail"
                " meanwhile with -e vllm_roll_min_ready=0."
            )
    return spare


def roll_batches(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], nodes: Iterable[str]) -> list[int]:
    """Sizes of the batches."""
    rest = list(hosts)
    if not rest:
        return [1]
    total = len(rest)
    variables = hostvars[rest[0]]
    asked = variables.get("vllm_roll_batches", BATCHES)
    asked = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    spare = missing_at_most(rest, hostvars, nodes, variables.get("vllm_roll_min_ready", MIN_READY))
    sizes: list[int] = []
    while rest:
        size = count("vllm_roll_batches", asked[min(len(sizes), len(asked) - 1)], total, up=False)
        batch = fitting(rest, max(1, size), hostvars, spare)
        sizes.append(batch)
        rest = rest[batch:]
    return sizes


def fitting(hosts: list[str], most: int, hostvars: Mapping[str, Mapping[str, Any]], spare: Mapping[str, int]) -> int:
    """How many of the first hosts may be out together."""
    out: dict[str, int] = {}
    for number, host in enumerate(hosts[:most]):
        for name in names_of(host, hostvars):
            out[name] = out.get(name, 0) + 1
            if out[name] > spare[name]:
                return number
    return min(most, len(hosts))


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"roll_batches": roll_batches}
