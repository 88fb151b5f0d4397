# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the state of the fleet from what the playbook status.yml has registered of each host; asks none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.inferops.vllm.plugins.plugin_utils import fleet

SHOWN_PROBLEMS = 5


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(
            {
                "hosts": {"type": "list", "elements": "str", "required": True},
                "load_balancers": {"type": "dict", "default": {}},
                "path": {"type": "path"},
            }
        )
        hostvars = (task_vars or {})["hostvars"]
        found = fleet.report(
            [node(host, hostvars[host]) for host in args["hosts"]],
            [balancer(host, answer) for host, answer in args["load_balancers"].items()],
        )
        for line in fleet.table(found):
            self._display.display(line)
        if args["path"] and not self._task.check_mode:
            try:
                Path(args["path"]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                raise AnsibleActionFail(
                    f"vllm_status_file {args['path']} cannot be written ({error.strerror}): choose another one"
                ) from error
        result.update(changed=False, ok=found["ok"])
        if not found["ok"]:
            result.update(failed=True, msg=sentence(found["problems"]))
        return result


def node(name: str, variables: Mapping[str, Any]) -> fleet.Node:
    info = variables.get("status_instances", {})
    return fleet.Node(
        name=name,
        reachable=not info.get("unreachable", False),
        failure=failure_of(info, str(variables.get("status_failure", ""))),
        wanted=tuple(instance["name"] for instance in variables.get("vllm_instances") or []),
        version=str(variables.get("vllm_version", "")),
        info=info if "instances" in info else {},
        gpus=variables.get("status_gpus", {}),
        configured=variables.get("vllm_service_configured", {}),
    )


def failure_of(info: Mapping[str, Any], failure: str) -> str:
    """Why not all is known of a node that was reached; empty where it is, or was not reached."""
    if "instances" in info or info.get("unreachable"):
        return failure.strip()
    return str(info.get("msg", "nothing could be learned of it")).strip()


def balancer(name: str, answer: Mapping[str, Any]) -> fleet.Balancer:
    if "services" in answer:
        return fleet.Balancer(name, services=answer["services"])
    return fleet.Balancer(name, fleet.OUT if answer.get("unreachable") else str(answer.get("msg", "no answer")))


def sentence(problems: list[str]) -> str:
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return f"not all is well: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}"
