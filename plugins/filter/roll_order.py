# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: roll_order
short_description: In which order a roll takes nodes
version_added: "0.1.0"
author: The inferops authors
description:
  - Sorts nodes by their names, those first that an earlier roll has left out of service. Going through these takes no
    capacity and gives some back, without which the others could not be taken out.
positional: _input, hostvars
options:
  _input:
    description: Names of the nodes.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variable C(hostvars), in which C(__roll) of a node is what M(inferops.vllm.vllm_roll) returned there where
        O(inferops.vllm.vllm_roll#module:state=begun).
    type: dict
    required: true
seealso:
  - module: inferops.vllm.vllm_roll
"""

EXAMPLES = r"""
- name: Restart the nodes
  hosts: "{{ groups['vllm_nodes'] | inferops.vllm.roll_order(hostvars) }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes, in the order of the roll.
  type: list
  elements: str
  sample: [node3, node1, node2]
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def roll_order(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Nodes in the order of the roll."""
    return sorted(hosts, key=lambda host: (not hostvars[host].get("__roll", {}).get("left_out", False), host))


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"roll_order": roll_order}
