# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: load_balancer_services
short_description: What a load balancer serves, from the inventory of the nodes
version_added: "0.1.0"
author: The inferops authors
description:
  - Turns the instances that each node runs into the services that a load balancer offers, in the form that
    the variable C(load_balancer_services) of the role P(inferops.vllm.load_balancer#role) takes.
  - Instances of one name on several nodes are one service, with one server for each node.
  - Reads the inventory alone and no facts, so nodes that C(--limit) leaves out are served as well.
positional: _input, hostvars
options:
  _input:
    description: Names of the nodes, in the order in which their servers are to appear.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variable C(hostvars).
      - Of each node, C(vllm_instances) says what it runs, and the first of C(vllm_address), C(ansible_host) and the
        node's name where load balancers reach it.
      - Its agent answers at C(health_check_agent_port), V(9410) without it, unless C(health_check_agent_enabled) is
        V(false).
    type: dict
    required: true
seealso:
  - plugin: inferops.vllm.load_balancer_errors
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Put HAProxy in front of the nodes
  hosts: load_balancers
  roles:
    - role: inferops.vllm.load_balancer
      load_balancer_services: "{{ groups['vllm_nodes'] | inferops.vllm.load_balancer_services(hostvars) }}"

# With vllm_instances: [{name: qwen3vl, port: 8000, frontend_port: 80, ...}] on node1 and node2, this comes to:
#
# - name: qwen3vl
#   port: 80
#   servers:
#     - {name: node1, address: 10.0.0.11, port: 8000, ready_port: 9410}
#     - {name: node2, address: 10.0.0.12, port: 8000, ready_port: 9410}
"""

RETURN = r"""
_value:
  description: The services, in the order in which their instances first appear.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instances.
      type: str
      sample: qwen3vl
    port:
      description: TCP port of the load balancer, the instances' C(frontend_port), or else their C(port).
      type: int
      sample: 80
    servers:
      description: One server for each node that runs the instance.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the node in the inventory.
          type: str
          sample: node1
        address:
          description: Where load balancers reach the node.
          type: str
          sample: 10.0.0.11
        port:
          description: TCP port of the instance on the node.
          type: int
          sample: 8000
        ready_port:
          description: TCP port of the node's agent.
          returned: where the node has one
          type: int
          sample: 9410
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean

# The defaults of the role health_check.
AGENT_ENABLED = True
AGENT_PORT = 9410


def port_of(host: str, instance: Mapping[str, Any], key: str) -> int:
    """A port of an instance as a number; Ansible hands on what the inventory says, strings included."""
    try:
        return int(instance[key])
    except (TypeError, ValueError):
        raise AnsibleFilterError(
            f"{host}: vllm_instances: {key} of instance '{instance['name']}' is {instance[key]!r}; give a TCP port."
        ) from None


def instances_of(host: str, variables: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """What a node runs; nothing where it says nothing."""
    for instance in variables.get("vllm_instances") or []:
        if not isinstance(instance, Mapping) or not {"name", "port"} <= instance.keys():
            raise AnsibleFilterError(f"{host}: vllm_instances: {instance!r} is no instance; give it a name and a port.")
        yield instance


def agent_of(host: str, variables: Mapping[str, Any]) -> dict[str, int]:
    """Where the node's agent answers; nothing of a node without one."""
    enabled = variables.get("health_check_agent_enabled", AGENT_ENABLED)
    try:
        if not boolean(enabled):
            return {}
    except TypeError:
        raise AnsibleFilterError(f"{host}: health_check_agent_enabled is {enabled!r}; give true or false.") from None
    port = variables.get("health_check_agent_port", AGENT_PORT)
    try:
        return {"ready_port": int(port)}
    except (TypeError, ValueError):
        raise AnsibleFilterError(f"{host}: health_check_agent_port is {port!r}; give a TCP port.") from None


def load_balancer_services(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One service for each name of an instance, with one server for each node that runs it."""
    services: dict[str, dict[str, Any]] = {}
    for host in hosts:
        variables = hostvars[host]
        for instance in instances_of(host, variables):
            name = str(instance["name"])
            port = port_of(host, instance, "frontend_port" if instance.get("frontend_port") else "port")
            service = services.setdefault(name, {"name": name, "port": port, "servers": []})
            if service["port"] != port:
                raise AnsibleFilterError(
                    f"{host}: vllm_instances: instance '{name}' has frontend port {port} here and {service['port']} on "
                    f"{service['servers'][0]['name']}; give it one frontend_port on every node."
                )
            service["servers"].append(
                {
                    "name": str(host),
                    "address": str(variables.get("vllm_address") or variables.get("ansible_host") or host),
                    "port": port_of(host, instance, "port"),
                    **agent_of(host, variables),
                }
            )
    return list(services.values())


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"load_balancer_services": load_balancer_services}
