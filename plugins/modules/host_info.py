#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Look at what decides whether a host can serve
version_added: "0.1.0"
author: The inferops authors (@inferops)
description:
  - Tells distribution, free disk space, size of C(/dev/shm), programs behind ports, GPUs and driver of a host at once.
  - Reads files of the host only, runs no program and needs no facts.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
options:
  paths:
    description: Paths to look at, whether they exist or not.
    type: list
    elements: path
    default: []
  ports:
    description: TCP ports whose listeners are wanted.
    type: list
    elements: int
    default: []
notes:
  - Only root can tell which program listens on a port.
"""

EXAMPLES = r"""
- name: Look at the host
  inferops.vllm.host_info:
    paths: [/opt/vllm]
    ports: [8000]
  register: looked
"""

RETURN = r"""
host:
  description: What was seen on the host.
  type: dict
  returned: success
  contains:
    distribution:
      description: Its C(id), C(version) and C(name), as C(/etc/os-release) has them; empty where it does not.
      type: dict
      returned: success
      sample: {id: debian, version: "12", name: "Debian GNU/Linux 12 (bookworm)"}
    service_manager:
      description: V(systemd), or empty.
      type: str
      returned: success
      sample: systemd
    paths:
      description:
        - Of each path whether it C(exists), the C(device) it is or would be on, and the C(free_bytes) there.
      type: dict
      returned: success
      sample: {/opt/vllm: {exists: false, device: 66306, free_bytes: 52428800000}}
    shm_bytes:
      description: Size of C(/dev/shm), V(0) where nothing is mounted there.
      type: int
      returned: success
      sample: 1073741824
    is_root:
      description: Whether the module ran as root.
      type: bool
      returned: success
      sample: true
    listeners:
      description:
        - For each of the O(ports) in use the C(pid) and C(program) that listens, and its vLLM C(instance), empty for
          none.
        - The C(pid) is V(null) where the process cannot be seen.
      type: list
      elements: dict
      returned: success
      sample: [{port: 8000, pid: 4711, program: python, instance: qwen3vl}]
    gpu_count:
      description: Number of NVIDIA GPUs with a device node, or that the driver knows where it has made no nodes yet.
      type: int
      returned: success
      sample: 8
    driver:
      description: Version of the loaded NVIDIA driver, empty for none.
      type: str
      returned: success
      sample: 580.159.04
    nvidia_driver:
      description:
        - What files tell of the driver, as M(inferops.vllm.nvidia_driver_info) does; packages on Debian's family only.
      type: dict
      returned: success
      sample: {loaded: 580.159.04, library: 580.159.04, kernels: [], packages: {}, managed: "", reboot_pending: ""}
    docker:
      description: Whether a Docker C(engine) listens, and whether NVIDIA's toolkit hands C(gpus) to its containers.
      type: dict
      returned: success
      sample: {engine: true, gpus: true}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._host import look


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, host=look(paths=module.params["paths"], ports=module.params["ports"]))


if __name__ == "__main__":
    main()
