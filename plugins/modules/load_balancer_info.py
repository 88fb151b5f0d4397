#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: load_balancer_info
short_description: Tell which servers get requests from a load balancer
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Asks HAProxy at its admin socket what it knows of each server of each service, as the role
    P(inferops.vllm.load_balancer#role) configures them.
  - Waits by choice until servers are up, which is when they get requests.
  - The servers that the role adds for the case that none is ready are left out.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
options:
  socket_path:
    description:
      - HAProxy's admin socket, the role's C(load_balancer_socket_path).
      - Where not set, C(/run/haproxy/admin.sock) or C(/var/lib/haproxy/stats), whichever is there.
    type: path
  wait_for:
    description:
      - Servers that must be up, by their services; the name of one, or a list of names.
      - A service or a server that HAProxy does not have is a failure at once.
    type: dict
    default: {}
  timeout_seconds:
    description: Seconds within which they must be up, and HAProxy must answer.
    type: int
    default: 60
notes:
  - Runs as root on a load balancer, which is no node.
seealso:
  - module: inferops.vllm.vllm_drain
  - plugin: inferops.vllm.load_balancer_services
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Ask each load balancer
  inferops.vllm.load_balancer_info:
  register: seen

- name: Wait until a node gets requests again
  inferops.vllm.load_balancer_info:
    wait_for:
      qwen3vl: node1
    timeout_seconds: 30
"""

RETURN = r"""
services:
  description: What HAProxy says of each server, by the name of its service and its own.
  type: dict
  returned: where HAProxy answers
  sample:
    qwen3vl:
      node1:
        state: up
        up: true
        status_text: UP, check L7OK 200 OK, agent L7OK
        sessions: 3
        sessions_total: 4711
        last_change_seconds: 86400
        hrsp_5xx: 0
        econ: 0
        eresp: 0
      node2:
        state: drain
        up: false
        status_text: DRAIN (agent), check L7STS 503 Service Unavailable, agent L7OK
        sessions: 0
        sessions_total: 4700
        last_change_seconds: 12
        hrsp_5xx: 0
        econ: 0
        eresp: 0
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils import _haproxy
from ansible_collections.inferops.vllm.plugins.module_utils._haproxy import Unanswered

PAUSE_SECONDS = 0.5


def wanted(module: AnsibleModule) -> dict[str, list[str]]:
    """The servers to wait for, by their services."""
    found = {}
    for service, names in module.params["wait_for"].items():
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            module.fail_json(msg=f"wait_for has {service}: {names}: write the name of a server, or a list of names")
        found[service] = listed
    return found


def run(module: AnsibleModule) -> dict:
    wait_for = wanted(module)
    deadline = time.monotonic() + module.params["timeout_seconds"]
    while True:
        late = time.monotonic() >= deadline
        try:
            services = _haproxy.services(_haproxy.socket_path(module.params["socket_path"]))
        except Unanswered as error:
            # It may be on its way up only where somebody waits for it.
            if late or not wait_for:
                module.fail_json(msg=str(error))
        else:
            absent = _haproxy.missing(wait_for, services)
            if absent:
                module.fail_json(
                    msg=f"wait_for cannot come about, for HAProxy knows better: {absent}."
                    " Correct it, or run the role load_balancer",
                    services=services,
                )
            rest = _haproxy.not_up(wait_for, services)
            if not rest:
                return services
            if late:
                module.fail_json(
                    msg=f"after {module.params['timeout_seconds']} s the load balancer sends no requests to"
                    f" {len(rest)} of the servers that must be up: {'; '.join(rest)}",
                    services=services,
                )
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "socket_path": {"type": "path"},
            "wait_for": {"type": "dict", "default": {}},
            "timeout_seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, services=run(module))


if __name__ == "__main__":
    main()
