#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: Look at the NVIDIA driver of a host, and what it would take to install one
version_added: "0.1.0"
author: The inferops authors (@inferops)
description:
  - Tells versions, packages, kernels and their modules, GPUs, Secure Boot, and what waits for a reboot, at once and
    without facts.
  - Given packages, it tells also what apt would do to install them, without doing it.
attributes:
  check_mode:
    description: Runs in check mode as otherwise.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
options:
  packages:
    description: Packages of which to tell what apt would do to install them. Of use on Debian's family alone.
    type: list
    elements: str
    default: []
  upgrade:
    description: Whether all parts of a driver that are there are to be upgraded along, in what apt would do.
    type: bool
    default: false
seealso:
  - plugin: inferops.vllm.nvidia_driver_plan
    plugin_type: filter
  - module: inferops.vllm.gpu_info
notes:
  - Runs as root.
"""

EXAMPLES = r"""
- name: Look at the driver
  inferops.vllm.nvidia_driver_info:
  register: looked
"""

RETURN = r"""
driver:
  description: What was seen on the host.
  type: dict
  returned: success
  contains:
    distribution:
      description: Its C(id), C(version) and C(name).
      type: dict
      sample: {id: debian, version: "12", name: "Debian GNU/Linux 12 (bookworm)"}
    architecture:
      description: As the kernel names it.
      type: str
      sample: x86_64
    kernel:
      description: Release of the running kernel.
      type: str
      sample: 6.1.0-41-amd64
    kernels:
      description: Installed kernels, the newest last, each with the file of its NVIDIA module, empty for none.
      type: list
      elements: dict
      sample: [{release: 6.1.0-41-amd64, module: /lib/modules/6.1.0-41-amd64/updates/dkms/nvidia.ko.xz}]
    modules:
      description: Version of the module by the kernel's release, empty for none.
      type: dict
      sample: {6.1.0-41-amd64: 580.159.04}
    loaded:
      description: Version of the loaded driver, empty for none.
      type: str
      sample: 580.159.04
    library:
      description: Version of the library that programs load, empty for none.
      type: str
      sample: 580.159.04
    libcuda:
      description: Version of the library that servers compute by, empty for none.
      type: str
      sample: 580.159.04
    packages:
      description: Packages that have to do with the driver, each with C(version), C(held), and C(complete).
      type: dict
      sample: {nvidia-driver-cuda: {version: 580.159.04-1, held: true, complete: true}}
    managed:
      description: The source that the role has set the host up from, empty where it has not.
      type: str
      sample: nvidia
    gpus:
      description: NVIDIA GPUs by their C(address) on the PCI bus, with the number of the C(device).
      type: list
      elements: dict
      sample: [{address: "0000:3b:00", device: "0x2330"}]
    nvswitches:
      description: How many NVSwitches the host has.
      type: int
      sample: 0
    secure_boot:
      description: Whether Secure Boot is on.
      type: bool
      sample: false
    nouveau:
      description: Whether nouveau is loaded.
      type: bool
      sample: false
    initramfs_stale:
      description: Whether an initial file system is older than the file that keeps nouveau out of it.
      type: bool
      sample: false
    runfile:
      description: Whether NVIDIA's own installer has put a driver there, past the packages.
      type: bool
      sample: false
    containers:
      description: How many containers Docker runs; V(null) without Docker.
      type: int
      sample: 0
    reboot_pending:
      description: Why the host waits for a reboot, empty where it does not.
      type: str
      sample: driver 575.57.08 is loaded, and 580.159.04 is installed
    persistenced:
      description: The command of the persistence daemon with persistence on, where its unit leaves it off.
      type: str
      sample: ""
    docker:
      description: Docker's configuration file; V(null) where there is no Docker, or the file cannot be read.
      type: dict
      sample: {}
transaction:
  description:
    - What apt would C(install), with versions, and C(remove); which of O(packages) are C(unknown) to it, and the
      versions of them that are C(offered) none the less; and its C(error).
  type: dict
  returned: where packages are given
  sample: {install: {nvidia-driver-cuda: 580.159.04-1}, remove: [], unknown: [], offered: {}, error: ""}
"""

import os
from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils import _host
from ansible_collections.inferops.vllm.plugins.module_utils._driver import look, names


def _parts(result: dict, module: AnsibleModule) -> list:
    installed = result["driver"]["packages"] if module.params["upgrade"] else []
    return [name for name in installed if names.is_part(name) and name not in module.params["packages"]]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "upgrade": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )

    def run(command: Sequence[str]) -> tuple[int, str]:
        # apt writes for people, and in their language.
        status, out, err = module.run_command(list(command), environ_update={"LC_ALL": "C.UTF-8"})
        return status, out + err

    machine = os.uname()
    with open("/etc/os-release", encoding="utf-8") as stream:
        distribution = _host.distribution(stream.read())
    result = {"driver": {"distribution": distribution, **look.everything(run, machine.release, machine.machine)}}
    if module.params["packages"]:
        result["transaction"] = look.transaction(run, module.params["packages"], _parts(result, module))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
