# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers what the checks of `_inventory` need: words of the inventory, models of the controller, facts of the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.vars.plugins import get_vars_from_inventory_sources, get_vars_from_path

from ansible_collections.inferops.vllm.plugins.module_utils._inventory import (
    check,
    groups,
    host,
    instances,
    models,
    options,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "instances": {"type": "raw"},
    "version": {"type": "raw"},
    "variant": {"type": "raw", "default": "cuda"},
    "runtime": {"type": "raw", "default": "systemd"},
    "user": {"type": "raw", "default": "vllm"},
    "root": {"type": "raw", "default": "/opt/vllm"},
    "health_check": {"type": "dict", "default": {}},
    "docker": {"type": "dict", "default": {}},
    "model_root": {"type": "path", "default": "/var/lib/vllm/models"},
    "peers": {"type": "list", "elements": "str", "default": []},
    "venv_disk_gb": {"type": "float", "default": 12},
    "shm_min_gb": {"type": "float", "default": 1},
    "shm_per_instance_mib": {"type": "int", "default": 160},
    "driver_min": {"type": "int", "default": 580},
}
WORDS = ("instances", "version", "variant", "runtime", "user", "root", "health_check", "docker")
LIMITS = ("venv_disk_gb", "shm_min_gb", "shm_per_instance_mib", "driver_min")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, args = self.validate_argument_spec(ARGUMENTS)
        words = check.Words(**{word: args[word] for word in WORDS})
        planned = instances.read(words.instances)
        plan = host.Plan(
            words=words,
            models={item.model: models.find(item.model, task_vars["playbook_dir"]) for item in planned if item.model},
            model_root=args["model_root"],
            limits=host.Limits(**{limit: args[limit] for limit in LIMITS}),
        )
        table = options.load(words.version)

        name = task_vars["inventory_hostname"]
        problems = [f"{name}: {problem}" for problem in check.check_words(words, plan.models, table)]
        problems += [f"{name}: {problem}" for problem in self._group_problems(task_vars)]
        problems += [f"{peer}: {problem}" for peer, problem in self._peer_problems(args["peers"], planned, task_vars)]
        warnings = check.warnings(words, table)

        looked = self._look(plan, task_vars, must_reach=not problems)
        result.update(looked, changed=False)
        if "host" in looked:
            problems += [f"{name}: {problem}" for problem in host.check_host(plan, looked["host"])]
            warnings += host.warnings(looked["host"])
        elif problems:
            problems.append(f"{name}: the host itself could not be checked: {looked.get('msg', 'no reason was given')}")

        for warning in warnings:
            self._display.warning(f"{name}: {warning}")
        result["problems"] = problems
        if problems:
            result.pop("host", None)
            result.update(failed=True, msg="\n".join(problems))
        return result

    def _look(self, plan: host.Plan, task_vars: dict[str, Any], *, must_reach: bool) -> dict[str, Any]:
        ports = sorted({instance.port for instance in plan.instances if instance.port})
        arguments = {"paths": plan.paths, "ports": ports}
        try:
            return self._execute_module("inferops.vllm.host_info", module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            # What is wrong already is told even where the host is down.
            if must_reach:
                raise
            return {"msg": str(error)}

    def _group_problems(self, task_vars: dict[str, Any]) -> Iterator[str]:
        """Ansible hands a plugin the merged variables only; what each group says is asked of the inventory itself."""
        hostvars = task_vars["hostvars"]
        member = hostvars._inventory.get_host(task_vars["inventory_hostname"])
        found = [
            groups.Group(group.name, (group.depth, group.priority), self._own_vars(hostvars, group))
            for group in member.get_groups()
            if group.name != "all"
        ]
        own = {**self._own_vars(hostvars, member), **hostvars._variable_manager.extra_vars}
        elsewhere = [
            word
            for word in groups.WORDS
            if word in task_vars and all(task_vars[word] != group.words.get(word) for group in found)
        ]
        return groups.check_groups(found, settled={*own, *elsewhere})

    def _own_vars(self, hostvars: Any, entity: Any) -> dict[str, Any]:
        """What a group or host says itself: in the inventory, and in the files beside inventory and playbook."""
        loader = hostvars._loader
        return {
            **entity.vars,
            **get_vars_from_inventory_sources(loader, hostvars._inventory._sources, [entity], "task"),
            **get_vars_from_path(loader, loader.get_basedir(), [entity], "task"),
        }

    def _peer_problems(
        self, peers: Sequence[str], planned: Sequence[instances.Instance], task_vars: dict[str, Any]
    ) -> Iterator[tuple[str, str]]:
        name, hostvars = task_vars["inventory_hostname"], task_vars["hostvars"]
        # To read the variables of all peers takes a while with hundreds of them: one host does it for all.
        if next((active for active in task_vars["ansible_play_hosts"] if active in peers), None) != name:
            return
        served = {name: planned}
        for peer in peers:
            if peer != name and peer in hostvars:
                try:
                    served[peer] = instances.read(hostvars[peer].get("vllm_instances"))
                except AnsibleError:
                    # Its own check tells what is wrong with its variables.
                    continue
        yield from groups.check_peers(served)
