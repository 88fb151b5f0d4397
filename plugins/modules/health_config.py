#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: health_config
short_description: Write the settings of a node's health check
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Checks the settings and writes them to a file that root alone may read, for the node agent and for cron's check.
  - A running agent takes new settings over by itself, within some ten seconds.
attributes:
  check_mode:
    description: Checks the settings, and reports whether the file would change.
    support: full
  diff_mode:
    description: Shows the file before and after, without the hooks, which may hold secrets.
    support: full
options:
  settings:
    description:
      - The settings; what is left out has its default.
      - The names are those of the variables of P(inferops.vllm.health_check#role), without C(health_check_).
    type: dict
    required: true
  path:
    description: The file; its directory is created where missing.
    type: path
    default: /etc/vllm/health.json
"""

EXAMPLES = r"""
- name: Be patient with engines that compile
  inferops.vllm.health_config:
    settings:
      hang_grace_seconds: 60
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
cron_runs:
  description: Whether a cron daemon runs on the node; where none does, nobody looks after the agent.
  type: bool
  returned: success
  sample: true
"""

import json
import os
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._health import settings as health
from ansible_collections.inferops.vllm.plugins.module_utils._serving import files, process

HIDDEN = "hooks"
CRONS = ("cron", "crond", "fcron")


def crons() -> Iterator[str]:
    """The cron daemons that run."""
    return (found.name for found in process.processes() if found.name in CRONS)


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""


def shown(text: str) -> str:
    """The file without what may be secret."""
    try:
        document = json.loads(text)
        count = len(document.pop(HIDDEN, []))
    except (AttributeError, TypeError, ValueError):
        return ""
    return dump({**document, HIDDEN: f"{count} of them"})


def dump(document: dict) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            # What is secret in it is kept from logs by the role: no_log would blot out every value everywhere.
            "settings": {"type": "dict", "required": True, "no_log": False},
            "path": {"type": "path", "default": health.PATH},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    problem = health.problem(module.params["settings"])
    if problem:
        module.fail_json(msg=problem)
    before, after = read(path), dump(module.params["settings"])
    changed = before != after
    if changed and not module.check_mode:
        files.replace(path, after, 0o600)
    if os.path.exists(path):
        changed = module.set_mode_if_different(path, 0o600, changed)
    module.exit_json(
        changed=changed,
        path=path,
        cron_runs=any(crons()),
        diff={"before": shown(before), "after": shown(after), "before_header": path, "after_header": path},
    )


if __name__ == "__main__":
    main()
