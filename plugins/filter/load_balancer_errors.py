# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: load_balancer_errors
short_description: What is wrong with the services of a load balancer
version_added: "0.1.0"
author: The inferops authors
description:
  - Checks the variable C(load_balancer_services) of the role P(inferops.vllm.load_balancer#role), and says what is
    wrong in sentences that name the value and the remedy.
  - Touches no host.
positional: _input, other_ports
options:
  _input:
    description: The services.
    type: list
    elements: dict
    required: true
  other_ports:
    description: TCP ports that the load balancer uses otherwise, by the name of the variable that says so.
    type: dict
    default: {}
seealso:
  - plugin: inferops.vllm.load_balancer_services
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Check the services
  vars:
    errors: "{{ load_balancer_services | inferops.vllm.load_balancer_errors({'load_balancer_stats_port': 8404}) }}"
  ansible.builtin.assert:
    that: errors | length == 0
    fail_msg: "{{ errors | join(' ') }}"
"""

RETURN = r"""
_value:
  description: The sentences; none where nothing is wrong.
  type: list
  elements: str
  sample:
    - >-
      load_balancer_services: service 'bge' has port 8000, and so has service 'qwen3vl'; give each a port of its own.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# What HAProxy takes for a name, but for a leading underscore: such names are the role's own.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
# Host names, IPv4 and IPv6 addresses.
ADDRESS = re.compile(r"[A-Za-z0-9_.:%-]+")

WHERE = "load_balancer_services"


def is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def is_port(value: Any) -> bool:
    return str(value).isdecimal() and 0 < int(value) < 65536


def server_errors(service: str, server: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one server by itself."""
    name, address, port = (server.get(key) for key in ("name", "address", "port"))
    where = f"{WHERE}: server '{name}' of service '{service}'"
    if not is_name(name):
        yield f"{WHERE}: service '{service}' has a server named {name!r}; use letters, digits, '.', '_' and '-'."
    if not address:
        yield f"{where} has no address; give it a host name or an IP address."
    elif not ADDRESS.fullmatch(str(address)):
        yield f"{where} has address {address!r}; give it a host name or an IP address."
    if not is_port(port):
        yield f"{where} has port {port!r}; give it one from 1 to 65535."
    if "ready_port" in server and not is_port(server["ready_port"]):
        yield (
            f"{where} has ready_port {server['ready_port']!r}; "
            "give the port of its node's agent, from 1 to 65535, or leave it out."
        )


def servers_errors(service: str, servers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with the servers of one service, each and together."""
    if not servers:
        yield f"{WHERE}: service '{service}' has no servers; list at least one, or leave the service out."
    names: set[Any] = set()
    places: dict[tuple[Any, Any], Any] = {}
    for server in servers:
        yield from server_errors(service, server)
        name, place = server.get("name"), (server.get("address"), server.get("port"))
        if name in names:
            yield f"{WHERE}: service '{service}' has two servers named '{name}'; give each a name of its own."
        elif place in places:
            yield (
                f"{WHERE}: servers '{places[place]}' and '{name}' of service '{service}' are both at "
                f"{place[0]} port {place[1]}; give each its own."
            )
        names.add(name)
        places.setdefault(place, name)


def ports_errors(services: Sequence[Mapping[str, Any]], other_ports: Mapping[str, int]) -> Iterator[str]:
    """Ports that are none, and ports with two owners."""
    owners: dict[int, str] = {}
    for variable, other_port in other_ports.items():
        owner = owners.setdefault(int(other_port), variable)
        if owner != variable:
            yield f"{variable}: {other_port} is {owner} already; give each a port of its own."
    for service in services:
        name, port = service.get("name"), service.get("port")
        if not is_port(port):
            yield f"{WHERE}: service '{name}' has port {port!r}; give it one from 1 to 65535."
            continue
        owner = owners.setdefault(int(str(port)), f"service '{name}'")
        if owner != f"service '{name}'":
            yield f"{WHERE}: service '{name}' has port {port}, and so has {owner}; give each a port of its own."


def names_errors(services: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Names that are none, and names used twice."""
    names: set[Any] = set()
    for name in (service.get("name") for service in services):
        if not is_name(name):
            yield f"{WHERE}: a service is named {name!r}; use letters, digits, '.', '_' and '-'."
        elif name in names:
            yield f"{WHERE}: two services are named '{name}'; give each a name of its own."
        names.add(name)


def instances_errors(services: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Instances whose names no agent knows."""
    for service in services:
        if "instance" in service and not is_name(service["instance"]):
            yield (
                f"{WHERE}: service '{service.get('name')}' has instance {service['instance']!r}; "
                "use letters, digits, '.', '_' and '-', or leave it out."
            )


def load_balancer_errors(
    services: Sequence[Mapping[str, Any]], other_ports: Mapping[str, int] | None = None
) -> list[str]:
    """What is wrong with the services, each and together, a sentence each."""
    if not services:
        return [f"{WHERE} is empty; list at least one service with its name, port and servers."]
    errors = [*names_errors(services), *ports_errors(services, other_ports or {}), *instances_errors(services)]
    for service in services:
        errors.extend(servers_errors(str(service.get("name")), service.get("servers") or []))
    return errors


class FilterModule:
    """Ansible's entrance."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"load_balancer_errors": load_balancer_errors}
