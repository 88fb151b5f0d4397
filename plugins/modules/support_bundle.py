#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: support_bundle
short_description: Gather all that explains a fault of a node into an archive
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Packs the configuration of the instances, the ends of all logs, what agent, servers, GPUs and kernel say, disks,
    memory, processes, units, versions, and all that the collection keeps of the node, into one archive on the node.
  - No secret gets into it. What the configuration calls a key, a token or a secret, the values of environment
    variables, and the hooks are taken out of every file, wherever their letters stand; so is what looks like a token.
  - What is broken, hangs or is not there is left out, and C(manifest.json) in the archive says why.
  - Nothing else changes on the node.
attributes:
  check_mode:
    description: Gathers nothing, and tells where the archive would be.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
options:
  directory:
    description: Directory on the node for the archive. It must be there.
    type: path
    default: /var/tmp
  reason:
    description: Why it is gathered, for those who read it.
    type: str
    default: ""
  log_lines:
    description: Lines of each log in the journal, from its end.
    type: int
    default: 2000
  timeout_seconds:
    description: Seconds for all of it. What has not answered by then is left out.
    type: int
    default: 60
  max_megabytes:
    description: What the archive may take before it is packed, in MiB. The largest files are left out first.
    type: int
    default: 64
notes:
  - Runs as root on the node.
  - The archive is readable by root alone, and nobody removes it; the playbook C(support_bundle.yml) does once it has
    fetched it.
seealso:
  - module: inferops.vllm.vllm_instance_info
  - module: inferops.vllm.gpu_health
"""

EXAMPLES = r"""
- name: Gather
  inferops.vllm.support_bundle:
    reason: hangs each night
  register: bundle

- name: Fetch
  ansible.builtin.fetch:
    src: "{{ bundle.path }}"
    dest: support/
    flat: true
"""

RETURN = r"""
path:
  description: The archive.
  type: str
  returned: success
  sample: /var/tmp/vllm-support-gpu1-20260301T040506Z.tar.gz
bytes:
  description: Its size; 0 in check mode.
  type: int
  returned: success
  sample: 48213
files:
  description: Names of the files in it; none in check mode.
  type: list
  elements: str
  returned: success
  sample: [agent/status.json, host/df.txt]
missing:
  description: What is not in it, and why.
  type: dict
  returned: success
  sample: {"gpu/nvidia-smi.txt": nvidia-smi is not installed}
"""

import asyncio
import os
import socket
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._support import bundle

PART_SECONDS = 20


def run(module: AnsibleModule) -> dict:
    params = module.params
    now = time.gmtime()
    name = f"vllm-support-{socket.gethostname()}-{time.strftime('%Y%m%dT%H%M%SZ', now)}"
    path = os.path.join(params["directory"], f"{name}.tar.gz")
    if not os.path.isdir(params["directory"]):
        module.fail_json(msg=f"directory is {params['directory']}, and this host has none there: name another one")
    if module.check_mode:
        return {"path": path, "bytes": 0, "files": [], "missing": {}}
    bounds = bundle.Bounds(
        log_lines=params["log_lines"],
        total_bytes=params["max_megabytes"] << 20,
        part_seconds=min(PART_SECONDS, params["timeout_seconds"]),
        seconds=params["timeout_seconds"],
    )
    found = bundle.cleaned(asyncio.run(bundle.Gatherer(bounds).gather()), bounds)
    about = {
        "host": socket.gethostname(),
        "reason": params["reason"],
        "gathered": time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
    }
    try:
        bundle.pack(found, path, name, about)
    except OSError as error:
        module.fail_json(
            msg=f"the archive {path} cannot be written ({error.strerror}): set directory to one with space",
            missing=found.missing,
        )
    return {"path": path, "bytes": os.path.getsize(path), "files": sorted(found.texts), "missing": found.missing}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/var/tmp"},
            "reason": {"type": "str", "default": ""},
            "log_lines": {"type": "int", "default": 2000},
            "timeout_seconds": {"type": "int", "default": 60},
            "max_megabytes": {"type": "int", "default": 64},
        },
        supports_check_mode=True,
    )
    for option in ("log_lines", "timeout_seconds", "max_megabytes"):
        if module.params[option] < 1:
            module.fail_json(msg=f"{option} is {module.params[option]}: write 1 or more")
    module.exit_json(changed=True, **run(module))


if __name__ == "__main__":
    main()
