# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: roll_shortage
short_description: Why nodes cannot be taken out of service now
version_added: "0.1.0"
author: The inferops authors
description:
  - Says where a load balancer would be left with too few servers, if some nodes were taken out of service.
  - Nodes that get no requests as it is can always be taken out.
positional: _input, load_balancer, hosts, names, min_ready
options:
  _input:
    description: The services of a load balancer, as M(inferops.vllm.load_balancer_info) returns them.
    type: dict
    required: true
  load_balancer:
    description: Its name.
    type: str
    required: true
  hosts:
    description: Names of the nodes that are to be taken out.
    type: list
    elements: str
    required: true
  names:
    description: Names of the instances that are to be taken out on them.
    type: list
    elements: str
    required: true
  min_ready:
    description: Number, or percentage of all servers of a service, that have to be left.
    type: str
    required: true
seealso:
  - plugin: inferops.vllm.roll_batches
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Ask a load balancer
  inferops.vllm.load_balancer_info:
  delegate_to: lb1
  register: seen

- name: Enough servers are left without node1
  ansible.builtin.assert:
    that: seen.services | inferops.vllm.roll_shortage('lb1', ['node1'], ['qwen3vl'], '50%') == ''
"""

RETURN = r"""
_value:
  description: A sentence for each service with too few; empty where there is none.
  type: str
  sample: lb1 sees qwen3vl served by 1 of 3 nodes besides node1, and vllm_roll_min_ready (50%) asks for 2.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.inferops.vllm.plugins.plugin_utils.capacity import count

Services = Mapping[str, Mapping[str, Mapping[str, Any]]]


def roll_shortage(
    services: Services, load_balancer: str, hosts: Iterable[str], names: Iterable[str], min_ready: Any
) -> str:
    """Where too few servers would be left."""
    out = set(hosts)
    found = []
    for name in names:
        servers = services.get(name, {})
        up = {server for server, seen in servers.items() if seen["up"]}
        if not up & out:
            continue
        wanted = count("vllm_roll_min_ready", min_ready, len(servers), up=True)
        left = len(up - out)
        if left < wanted:
            found.append(
                f"{load_balancer} sees {name} served by {left} of {len(servers)} nodes besides"
                f" {', '.join(sorted(up & out))}, and vllm_roll_min_ready ({min_ready}) asks for {wanted}."
            )
    return " ".join(found)


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"roll_shortage": roll_shortage}
