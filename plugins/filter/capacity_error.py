# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: capacity_error
short_description: Why servers must not be taken out of service
version_added: "0.1.0"
author: The inferops authors
description:
  - Counts, of each service at each load balancer, the servers that would still get requests, and says in one sentence
    where they would be too few.
  - A server that gets no requests now is no loss. So taking out what is out already is never an error.
positional: _input, leaving, least
options:
  _input:
    description:
      - The C(services) that M(inferops.vllm.load_balancer_info) returns, by the name of the load balancer.
    type: dict
    required: true
  leaving:
    description: Names of the servers that shall go, by their service.
    type: dict
    required: true
  least:
    description: How many of a service's servers must stay, a number or a percentage of all that it has, rounded up.
    type: raw
    required: true
  services:
    description:
      - What the inventory says is served, as P(inferops.vllm.load_balancer_services#filter) returns it. Counts where
        there is no load balancer to ask, with every server as ready.
    type: list
    elements: dict
    default: []
seealso:
  - module: inferops.vllm.load_balancer_info
  - plugin: inferops.vllm.by_instance
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Leave enough in service
  vars:
    seen: {lb1: {tiny: {node1: {up: true}, node2: {up: true}, node3: {up: false}}}}
    error: "{{ seen | inferops.vllm.capacity_error({'tiny': ['node1']}, '50%') }}"
  ansible.builtin.assert:
    that: error | length == 0
    fail_msg: "{{ error }}"
"""

RETURN = r"""
_value:
  description: The sentence; empty where enough stay.
  type: str
  sample: "tiny would be left with 1 of 3 servers at lb1 (node2), and 50% of them, 2, must stay"
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.inferops.vllm.plugins.plugin_utils.capacity import count

Services = Mapping[str, Mapping[str, Mapping[str, Any]]]
INVENTORY = "the inventory"


def needed(least: Any, servers: int) -> int:
    """So many of that many servers must stay."""
    return count("vllm_roll_min_ready", least, servers, up=True)


def planned(services: Iterable[Mapping[str, Any]]) -> Services:
    """What the inventory says is served, as a load balancer would tell it."""
    return {service["name"]: {server["name"]: {"up": True} for server in service["servers"]} for service in services}


def capacity_error(
    seen: Mapping[str, Services],
    leaving: Mapping[str, Iterable[str]],
    least: Any,
    services: Iterable[Mapping[str, Any]] = (),
) -> str:
    """Why these servers must not go; empty where they may."""
    needed(least, 0)
    views = seen or {INVENTORY: planned(services)}
    problems = [
        problem
        for balancer, found in views.items()
        for name, going in leaving.items()
        if (problem := _problem(balancer, name, found.get(name, {}), set(going), least))
    ]
    return "; ".join(problems)


def _problem(balancer: str, name: str, servers: Mapping[str, Mapping[str, Any]], going: set[str], least: Any) -> str:
    up = {server for server, found in servers.items() if found["up"]}
    staying, must = sorted(up - going), needed(least, len(servers))
    if not up & going or len(staying) >= must:
        return ""
    shown = f" ({', '.join(staying)})" if staying else ""
    share = f"{least} of them, {must}," if "%" in str(least) else f"{must}"
    left = f"{len(staying)} of {len(servers)} servers at {balancer}{shown}"
    return f"{name} would be left with {left}, and {share} must stay"


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"capacity_error": capacity_error}
