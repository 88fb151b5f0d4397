# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: roll_awaited
short_description: What a load balancer has to send requests to again
version_added: "0.1.0"
author: The inferops authors
description:
  - Tells of the instances of a node which ones a load balancer has as servers, in the form that the option C(wait_for)
    of M(inferops.vllm.load_balancer_info) takes.
positional: _input, host, names
options:
  _input:
    description: The services of a load balancer, as M(inferops.vllm.load_balancer_info) returns them.
    type: dict
    required: true
  host:
    description: Name of the node.
    type: str
    required: true
  names:
    description: Names of the instances that are back in service on it.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Wait until a load balancer has the node back
  inferops.vllm.load_balancer_info:
    wait_for: "{{ seen.services | inferops.vllm.roll_awaited('node1', ['qwen3vl']) }}"
  delegate_to: lb1
"""

RETURN = r"""
_value:
  description: The node, by the name of each of its services there.
  type: dict
  sample: {"qwen3vl": "node1"}
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def roll_awaited(services: Mapping[str, Mapping[str, Any]], host: str, names: Iterable[str]) -> dict[str, str]:
    """The servers of a node that a load balancer has."""
    return {name: host for name in names if host in services.get(name, {})}


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"roll_awaited": roll_awaited}
