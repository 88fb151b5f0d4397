# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each example is a good inventory as it stands: Ansible reads it, and no check of the collection has a complaint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.host import Host
from ansible.inventory.manager import InventoryManager
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible.vars.plugins import get_vars_from_inventory_sources

from ansible_collections.inferops.vllm.plugins.filter.load_balancer_errors import load_balancer_errors
from ansible_collections.inferops.vllm.plugins.filter.load_balancer_services import load_balancer_services
from ansible_collections.inferops.vllm.plugins.module_utils._inventory import check, groups, instances, models, options

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLES = sorted(path.parent for path in REPOSITORY.glob("examples/*/hosts.yml"))
ROLES = sorted(path for path in (REPOSITORY / "roles").iterdir() if path.is_dir())
# Of a play whose group is made while the playbook runs.
MADE_BY_PLAYS = "{{"


@dataclass
class Example:
    """An inventory as Ansible reads it."""

    folder: Path

    def __post_init__(self) -> None:
        self.loader = DataLoader()
        self.loader.set_basedir(str(REPOSITORY))
        self.inventory = InventoryManager(loader=self.loader, sources=[str(self.folder)])
        self.variables = VariableManager(loader=self.loader, inventory=self.inventory)

    def hosts(self, group: str = "all") -> list[Host]:
        found: list[Host] = self.inventory.get_hosts(group)
        return found

    def words(self, host: Host) -> dict[str, Any]:
        """What the inventory says of a host, templates filled in."""
        variables = self.variables.get_vars(host=host, include_hostvars=False)
        templar = Templar(loader=self.loader, variables=variables)
        return {name: templar.template(value) for name, value in variables.items() if "_" in name}

    def said_by_groups(self, host: Host) -> list[groups.Group]:
        return [
            groups.Group(
                group.name,
                (group.depth, group.priority),
                get_vars_from_inventory_sources(self.loader, self.inventory._sources, [group], "task"),
            )
            for group in host.get_groups()
            if group.name != "all"
        ]


@pytest.fixture(params=EXAMPLES, ids=lambda folder: folder.name)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param)


def option_specs(role: Path) -> dict[str, Any]:
    """The argument specs of a role's main entry point."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    found: dict[str, Any] = specs["main"].get("options", {})
    return found


def known_words() -> Iterator[str]:
    """All that an inventory may say: the variables of roles, and the shared words that these refer to."""
    yield from ("ansible_user", "vllm_address")
    for role in ROLES:
        yield from option_specs(role)
        defaults = (role / "defaults/main.yml").read_text(encoding="utf-8")
        yield from re.findall(r"\b(vllm_\w+) \| default\(", defaults)


def plays() -> Iterator[dict[str, Any]]:
    for playbook in sorted(REPOSITORY.glob("playbooks/*.yml")):
        yield from (play for play in yaml.safe_load(playbook.read_text(encoding="utf-8")) if "hosts" in play)


def test_there_are_examples() -> None:
    assert {"fleet", "single_node"} <= {folder.name for folder in EXAMPLES}


def test_readme(example: Example) -> None:
    assert (example.folder / "README.md").is_file()


def test_words_of_the_nodes(example: Example) -> None:
    nodes = example.hosts("vllm_nodes")
    assert nodes
    for node in nodes:
        said = example.words(node)
        words = check.Words(instances=said["vllm_instances"], version=said["vllm_version"])
        table = options.load(words.version)
        planned = instances.read(words.instances)
        found = {item.model: models.find(item.model, str(REPOSITORY)) for item in planned if item.model}
        assert check.check_words(words, found, table) == []
        assert check.warnings(words, table) == []


def test_nodes_agree(example: Example) -> None:
    nodes = example.hosts("vllm_nodes")
    served = {node.name: instances.read(example.words(node)["vllm_instances"]) for node in nodes}
    assert list(groups.check_peers(served)) == []
    assert [problem for node in nodes for problem in groups.check_groups(example.said_by_groups(node))] == []


def test_services_of_the_load_balancers(example: Example) -> None:
    said = {node.name: example.words(node) for node in example.hosts("vllm_nodes")}
    services = load_balancer_services(said, said)
    assert load_balancer_errors(services, {"load_balancer_stats_port": 8404, "load_balancer_metrics_port": 8405}) == []
    assert all(len(service["servers"]) == len(said) for service in services)


def test_groups_of_the_plays_exist(example: Example) -> None:
    wanted = {play["hosts"] for play in plays() if MADE_BY_PLAYS not in play["hosts"]}
    assert {"vllm_nodes", "load_balancers"} <= wanted
    assert wanted - {"localhost"} <= set(example.inventory.groups)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_values_fit_the_argument_specs(example: Example, role: Path) -> None:
    specs = option_specs(role)
    for host in example.hosts():
        said = example.words(host)
        values = {name: value for name, value in said.items() if name in specs}
        for word in ("instances", "api_keys"):
            if f"vllm_{word}" in said and f"{role.name}_{word}" in specs:
                values[f"{role.name}_{word}"] = said[f"vllm_{word}"]
        wanted = {name: {**specs[name], "required": False} for name in values}
        assert ArgumentSpecValidator(wanted).validate(values).error_messages == []


def test_every_variable_exists(example: Example) -> None:
    """Those that are commented out too."""
    known = set(known_words())
    for path in example.folder.glob("group_vars/**/*.yml"):
        said = re.findall(r"^(?:# )?([a-z]\w*):(?: |$)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert said
        assert [name for name in said if name not in known and not name.startswith("vault_")] == []
