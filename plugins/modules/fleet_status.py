#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_status
short_description: Show the state of a fleet
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Shows as a table what the playbook C(status.yml) has gathered of each node and load balancer, writes it into a file,
    and fails with one sentence where not all is well.
  - Runs on the controller, and asks no host. Of each it takes the variables C(status_instances), as
    M(inferops.vllm.vllm_instance_info) returns them, C(status_gpus), as M(inferops.vllm.gpu_health) does,
    C(vllm_service_configured) of the role P(inferops.vllm.vllm_service#role), and C(status_failure).
  - All is well where every node and load balancer answers, every instance of the inventory and no other is there,
    ready, as the inventory has it, and gets requests. One that is drained is not.
attributes:
  check_mode:
    description: Shows the same, and writes no file.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
options:
  hosts:
    description: The nodes, in the order in which they are shown.
    type: list
    elements: str
    required: true
  load_balancers:
    description: What M(inferops.vllm.load_balancer_info) has returned, by the name of the load balancer.
    type: dict
    default: {}
  path:
    description: File on the controller for all of it, as JSON. None is written where not set.
    type: path
"""

EXAMPLES = r"""
- name: Show
  inferops.vllm.fleet_status:
    hosts: "{{ ansible_play_hosts_all }}"
    path: /tmp/vllm-status.json
  run_once: true
"""

RETURN = r"""
ok:
  description: Whether all is well.
  type: bool
  returned: always
  sample: false
"""

# Documentation only: the action plugin of this name does the work.
