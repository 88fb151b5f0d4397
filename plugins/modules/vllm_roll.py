#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_roll
short_description: Note on a node how far a roll has come
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Keeps the note by which only one roll at a time goes through a node, and by which an interrupted roll is resumed.
  - Drains, stops and starts nothing. The role P(inferops.vllm.roll#role) does that, and calls this module.
attributes:
  action:
    description: Has a half on the controller, which says who holds the roll, and knows whether an earlier holder lives.
    support: full
  check_mode:
    description: Tells what a roll would go through.
    support: full
  diff_mode:
    description: Shows the instances that are not done, before and after.
    support: full
extends_documentation_fragment:
  - inferops.vllm.instances
  - inferops.vllm.instances.drain
options:
  state:
    description:
      - V(begun) takes the roll's note, or fails where another roll has it, and finds the instances to go through.
      - V(done) takes O(names) off the note.
      - V(restored) stages the last configuration of O(names) that has served, where they have another one.
      - V(ended) gives the note back. One with instances that are not done stays, for the roll that resumes.
    type: str
    choices: [begun, done, restored, ended]
    required: true
  verb:
    description:
      - What the roll is for, where O(state=begun).
      - V(restart) restarts every instance, V(apply) those that run with another configuration than they shall, and
        V(rollback) goes back to the configuration that served before the present one.
    type: str
    choices: [apply, restart, rollback]
    default: apply
  stale:
    description: Instances that are known to run with another configuration than they shall.
    type: list
    elements: str
    default: []
  approve:
    description: Keep the configuration of O(names) as one that has served, where O(state=done).
    type: bool
    default: true
  reason:
    description: Reason of the drains that belong to rolls. An instance that is drained for another one stays so.
    type: str
    default: roll
  lease_seconds:
    description: Seconds after which a roll of another controller that was not heard of counts as gone.
    type: float
    default: 3600
  resume_seconds:
    description: Seconds after which an interrupted roll is begun anew instead of resumed.
    type: float
    default: 86400
  take_over:
    description: Take the note of another roll that is not known to be gone.
    type: bool
    default: false
  path:
    description: The note.
    type: path
    default: /var/lib/vllm/roll.json
  _holder:
    description: Not for playbooks; the process on the controller that the roll belongs to.
    type: dict
seealso:
  - module: inferops.vllm.vllm_instance
  - module: inferops.vllm.vllm_drain
"""

EXAMPLES = r"""
- name: Find what has to be restarted
  inferops.vllm.vllm_roll:
    state: begun
    verb: apply
  register: roll
"""

RETURN = r"""
todo:
  description: Instances that the roll has to go through.
  type: list
  elements: str
  returned: where O(state=begun)
  sample: [qwen3vl]
restart:
  description: Those of RV(todo) that have not been restarted so far.
  type: list
  elements: str
  returned: where O(state=begun)
  sample: [qwen3vl]
left_out:
  description: Whether an earlier roll has left all of RV(todo) out of service, so that going through it costs nothing.
  type: bool
  returned: where O(state=begun)
resumed:
  description: Whether an interrupted roll goes on.
  type: bool
  returned: where O(state=begun)
missing:
  description: Instances that have no earlier configuration to go back to.
  type: list
  elements: str
  returned: where O(verb=rollback)
  sample: []
kept_out:
  description: Why an instance stays drained, by the name of each that somebody else has drained.
  type: dict
  returned: where O(state=begun)
  sample: {"qwen3vl": "the fan is loud"}
restored:
  description: Instances whose last good configuration was staged.
  type: list
  elements: str
  returned: where O(state=restored)
  sample: [qwen3vl]
held_by:
  description: The process that holds the note.
  type: dict
  returned: where another roll has it
  sample: {"user": "ops", "host": "bastion", "boot": "5d4b1c6e", "pid": 4242, "start": 123456}
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils import _roll
from ansible_collections.inferops.vllm.plugins.module_utils._health import drain
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving


def reasons(names: list[str], drain_dir: str) -> dict[str, str]:
    """Why those are drained that are."""
    return {
        name: str(drain.read(name, drain_dir).get("reason", "")) for name in names if drain.is_drained(name, drain_dir)
    }


def begin(module: AnsibleModule, names: list[str]) -> dict:
    params = module.params
    wanted = _roll.Wanted(
        verb=params["verb"],
        holder=_roll.Holder(**params["_holder"]),
        names=names,
        stale=params["stale"],
        lease_seconds=params["lease_seconds"],
        resume_seconds=params["resume_seconds"],
        take_over=params["take_over"],
    )
    node = _roll.Node(wanted, params["config_dir"], params["path"])
    back = node.back() if params["verb"] == _roll.ROLLBACK else {}
    todo = node.todo(back)
    restart = node.restart(todo, back)
    if not module.check_mode:
        node.begin(todo, back)
    left = node.found.todo if node.found else []
    drained = reasons(names, params["drain_dir"])
    return {
        "changed": todo != left,
        "diff": {"before": {"todo": left}, "after": {"todo": todo}},
        "todo": todo,
        "restart": restart,
        "left_out": all(drained.get(name) == params["reason"] for name in todo),
        "resumed": node.resumes,
        "missing": node.missing,
        "kept_out": {name: reason for name, reason in drained.items() if reason != params["reason"]},
    }


def finish(module: AnsibleModule, names: list[str]) -> dict:
    params = module.params
    note = _roll.read(params["path"])
    left = note.todo if note else []
    if not module.check_mode:
        _roll.done(names, params["approve"], params["config_dir"], params["path"])
    after = [name for name in left if name not in names]
    return {"changed": after != left, "diff": {"before": {"todo": left}, "after": {"todo": after}}}


def restore(module: AnsibleModule, names: list[str]) -> dict:
    restored = [] if module.check_mode else _roll.restore(names, module.params["config_dir"])
    return {"changed": bool(restored), "restored": restored}


def end(module: AnsibleModule, _names: list[str]) -> dict:
    note = _roll.read(module.params["path"])
    if note and not module.check_mode:
        _roll.end(module.params["path"])
    return {"changed": note is not None}


STATES = {"begun": begin, "done": finish, "restored": restore, "ended": end}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "verb": {"type": "str", "choices": list(_roll.VERBS), "default": _roll.APPLY},
            "names": {"type": "list", "elements": "str"},
            "stale": {"type": "list", "elements": "str", "default": []},
            "approve": {"type": "bool", "default": True},
            "reason": {"type": "str", "default": "roll"},
            "lease_seconds": {"type": "float", "default": 3600},
            "resume_seconds": {"type": "float", "default": 86400},
            "take_over": {"type": "bool", "default": False},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "drain_dir": {"type": "path", "default": drain.DIRECTORY},
            "path": {"type": "path", "default": _roll.PATH},
            "_holder": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        names = [found.name for found in serving.load_all(params["names"], params["config_dir"])]
        module.exit_json(**STATES[params["state"]](module, names))
    except _roll.Held as error:
        module.fail_json(msg=str(error), held_by=asdict(error.holder))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
