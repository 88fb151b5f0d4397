# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: by_instance
short_description: Which hosts have an instance, from which instances a host has
version_added: "0.1.0"
author: The inferops authors
description:
  - Turns the names of instances by host into the names of hosts by instance, which are those of the servers of a load
    balancer's service. M(inferops.vllm.load_balancer_info) and P(inferops.vllm.capacity_error#filter) take them so.
options:
  _input:
    description: Names of instances, by the host that has them.
    type: dict
    required: true
seealso:
  - module: inferops.vllm.load_balancer_info
  - plugin: inferops.vllm.capacity_error
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Wait until the load balancer sends requests to what was put back
  inferops.vllm.load_balancer_info:
    wait_for: "{{ {'node1': ['tiny', 'huge'], 'node2': ['tiny']} | inferops.vllm.by_instance }}"
  delegate_to: lb1
"""

RETURN = r"""
_value:
  description: Names of hosts, by the instance that they have.
  type: dict
  sample: {"tiny": [node1, node2], "huge": [node1]}
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def by_instance(instances: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Hosts by the name of their instance."""
    found: dict[str, list[str]] = {}
    for host, names in instances.items():
        for name in names:
            found.setdefault(str(name), []).append(str(host))
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"by_instance": by_instance}
