#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: node_tools
short_description: Install the collection's own tools on a node, or remove them
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Writes the files that a node runs by itself to C(<root>/lib/inferops_vllm), the very same that the modules of this
    collection import, and their commands C(vllm-instance), C(vllm-node-agent) and C(vllm-health-check) to
    C(<root>/bin).
  - One call, whatever the number of files. Files of an earlier release that are no longer part of it are removed.
attributes:
  check_mode:
    description: Reports which files would change.
    support: full
  diff_mode:
    description: Lists the files that change.
    support: full
options:
  root:
    description: Directory to install into; created where missing.
    type: path
    default: /opt/vllm
  state:
    description:
      - V(present) installs them.
      - V(absent) removes them. Servers and agent, which they start, have to be stopped before.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Install the node's tools
  inferops.vllm.node_tools:
"""

RETURN = r"""
written:
  description: Files written, or that would be.
  type: list
  elements: str
  returned: success
removed:
  description: Files removed, or that would be.
  type: list
  elements: str
  returned: success
"""

import os
import shutil
import sys
from types import ModuleType

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils import (
    _driver,
    _gpu,
    _health,
    _inventory,
    _serving,
)
from ansible_collections.inferops.vllm.plugins.module_utils._driver import faults, names
from ansible_collections.inferops.vllm.plugins.module_utils._driver import look as driver_look
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import (
    child,
    driver,
    facts,
    kernel_log,
    look,
    nvml,
    pci,
    smi,
    start,
    xid,
    xid_table,
)
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import verdict as gpu_verdict
from ansible_collections.inferops.vllm.plugins.module_utils._health import (
    agent,
    drain,
    exposition,
    gpus,
    hooks,
    keeper,
    lock,
    memory,
    policy,
    server,
    settings,
    trial,
    watchman,
)
from ansible_collections.inferops.vllm.plugins.module_utils._inventory import wording
from ansible_collections.inferops.vllm.plugins.module_utils._serving import (
    client,
    command,
    contain,
    container,
    dockerd,
    files,
    flight,
    generations,
    instance,
    keep,
    launch,
    metrics,
    probe,
    process,
    runtime,
    supervisord,
    tend,
    unix_http,
    verdict,
    watch,
)

PACKAGES = {
    "_driver": [_driver, faults, driver_look, names],
    "_gpu": [
        _gpu,
        child,
        driver,
        facts,
        gpu_verdict,
        kernel_log,
        look,
        nvml,
        pci,
        smi,
        start,
        xid,
        xid_table,
    ],
    "_health": [
        _health,
        agent,
        drain,
        exposition,
        gpus,
        hooks,
        keeper,
        lock,
        memory,
        policy,
        server,
        settings,
        trial,
        watchman,
    ],
    "_inventory": [_inventory, wording],
    "_serving": [
        _serving,
        client,
        command,
        contain,
        container,
        dockerd,
        files,
        flight,
        generations,
        instance,
        keep,
        launch,
        metrics,
        probe,
        process,
        runtime,
        supervisord,
        tend,
        unix_http,
        verdict,
        watch,
    ],
}
COMMANDS = {
    "vllm-health-check": "_health.watchman",
    "vllm-instance": "_serving.command",
    "vllm-node-agent": "_health.agent",
}
COMMAND = """#!{python} -I
import sys

sys.path.insert(0, "{lib}")

from inferops_vllm.{module} import main

main()
"""


def source(module: ModuleType) -> str:
    # The module may lie in a zip file, so there is no file to read.
    return module.__loader__.get_source(module.__name__)  # type: ignore[union-attr]


def wanted_files(root: str) -> dict[str, tuple[str, int]]:
    """Every file of the tools: path -> (text, mode)."""
    lib = os.path.join(root, "lib")
    package = os.path.join(lib, "inferops_vllm")
    wanted = {os.path.join(package, "__init__.py"): ("", 0o644)}
    for name, modules in PACKAGES.items():
        for module in modules:
            # A package's own source lies in its __init__.py.
            base = "__init__" if hasattr(module, "__path__") else module.__name__.rpartition(".")[2]
            wanted[os.path.join(package, name, f"{base}.py")] = (source(module), 0o644)
    for name, program in COMMANDS.items():
        text = COMMAND.format(python=sys.executable, lib=lib, module=program)
        wanted[os.path.join(root, "bin", name)] = (text, 0o755)
    return wanted


def found_files(root: str) -> set[str]:
    package = os.path.join(root, "lib", "inferops_vllm")
    return {
        os.path.join(folder, name)
        for folder, _folders, names in os.walk(package)
        for name in names
        if name.endswith(".py")
    }


def is_current(path: str, text: str, mode: int) -> bool:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read() == text and os.fstat(stream.fileno()).st_mode & 0o7777 == mode
    except OSError:
        return False


def install(root: str, check: bool) -> tuple[list[str], list[str]]:
    """What was written, and what was removed."""
    wanted = wanted_files(root)
    stale = sorted(path for path, (text, mode) in wanted.items() if not is_current(path, text, mode))
    surplus = sorted(found_files(root) - set(wanted))
    if not check:
        for path in stale:
            # A running check or launcher reads the old file or the new one, never a part.
            files.replace(path, *wanted[path])
        for path in surplus:
            os.unlink(path)
    return stale, surplus


def remove(root: str, check: bool) -> tuple[list[str], list[str]]:
    """The same; the bytecode beside the files goes with them."""
    package = os.path.join(root, "lib", "inferops_vllm")
    commands = [os.path.join(root, "bin", name) for name in COMMANDS]
    found = [path for path in [*commands, package] if os.path.lexists(path)]
    if not check:
        for path in found:
            if path == package:
                shutil.rmtree(path)
            else:
                os.unlink(path)
    return [], sorted(found)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/vllm"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    act = install if module.params["state"] == "present" else remove
    written, removed = act(module.params["root"], module.check_mode)
    module.exit_json(
        changed=bool(written or removed),
        written=written,
        removed=removed,
        diff={"before": "\n".join(removed), "after": "\n".join(written)},
    )


if __name__ == "__main__":
    main()
