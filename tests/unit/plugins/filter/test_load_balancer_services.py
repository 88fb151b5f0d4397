# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of a load balancer from the inventory: the pure function, and Ansible's lazy hostvars in a real play."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.filter.load_balancer_services import FilterModule, load_balancer_services


def instance(name: str = "qwen3vl", port: Any = 8000, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "model": "org/name", **more}


def test_one_service_for_a_name_with_one_server_for_each_node() -> None:
    hostvars = {
        "node1": {"vllm_instances": [instance(), instance("bge", 8001)], "vllm_address": "10.0.0.11"},
        "node2": {"vllm_instances": [instance()], "vllm_address": "10.0.0.12"},
    }
    assert load_balancer_services(["node1", "node2"], hostvars) == [
        {
            "name": "qwen3vl",
            "port": 8000,
            "servers": [
                {"name": "node1", "address": "10.0.0.11", "port": 8000, "ready_port": 9410},
                {"name": "node2", "address": "10.0.0.12", "port": 8000, "ready_port": 9410},
            ],
        },
        {
            "name": "bge",
            "port": 8001,
            "servers": [{"name": "node1", "address": "10.0.0.11", "port": 8001, "ready_port": 9410}],
        },
    ]


def test_order_is_the_order_of_the_hosts() -> None:
    hostvars = {"a": {"vllm_instances": [instance()]}, "b": {"vllm_instances": [instance()]}}
    [service] = load_balancer_services(["b", "a"], hostvars)
    assert [server["name"] for server in service["servers"]] == ["b", "a"]


def test_frontend_port_goes_before_port() -> None:
    hostvars = {
        "a": {"vllm_instances": [instance(port=8000, frontend_port=80)]},
        "b": {"vllm_instances": [instance(port="8100", frontend_port="80")]},
    }
    [service] = load_balancer_services(["a", "b"], hostvars)
    assert service["port"] == 80
    assert [server["port"] for server in service["servers"]] == [8000, 8100]


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"vllm_address": "10.0.0.11", "ansible_host": "192.0.2.1"}, "10.0.0.11"),
        ({"ansible_host": "192.0.2.1"}, "192.0.2.1"),
        ({}, "node1"),
    ],
)
def test_address(variables: dict[str, Any], address: str) -> None:
    [service] = load_balancer_services(["node1"], {"node1": {"vllm_instances": [instance()], **variables}})
    assert service["servers"][0]["address"] == address


@pytest.mark.parametrize("variables", [{}, {"vllm_instances": []}, {"vllm_instances": None}])
def test_a_node_without_instances_serves_nothing(variables: dict[str, Any]) -> None:
    assert load_balancer_services(["node1"], {"node1": variables}) == []


def test_no_nodes_no_services() -> None:
    assert load_balancer_services([], {}) == []


def test_frontend_ports_that_contradict_each_other() -> None:
    hostvars = {"node1": {"vllm_instances": [instance()]}, "node2": {"vllm_instances": [instance(port=8001)]}}
    with pytest.raises(AnsibleFilterError) as error:
        load_balancer_services(["node1", "node2"], hostvars)
    assert str(error.value) == (
        "node2: vllm_instances: instance 'qwen3vl' has frontend port 8001 here and 8000 on node1; "
        "give it one frontend_port on every node."
    )


@pytest.mark.parametrize("broken", ["qwen3vl", {"name": "qwen3vl"}, {"port": 8000}])
def test_what_is_no_instance(broken: Any) -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"^node1: vllm_instances: .* is no instance; give it a name and a port\.$"
    ):
        load_balancer_services(["node1"], {"node1": {"vllm_instances": [broken]}})


@pytest.mark.parametrize("key", ["port", "frontend_port"])
def test_a_port_that_is_no_number(key: str) -> None:
    with pytest.raises(
        AnsibleFilterError, match=rf"^node1: vllm_instances: {key} of instance 'qwen3vl' is 'http'; give"
    ):
        load_balancer_services(["node1"], {"node1": {"vllm_instances": [{**instance(), key: "http"}]}})


@pytest.mark.parametrize(
    ("variables", "agent"),
    [
        ({}, {"ready_port": 9410}),
        ({"health_check_agent_port": "9500"}, {"ready_port": 9500}),
        ({"health_check_agent_enabled": "true"}, {"ready_port": 9410}),
        ({"health_check_agent_enabled": False, "health_check_agent_port": 9500}, {}),
        # As an inventory in the form of INI gives it.
        ({"health_check_agent_enabled": "no"}, {}),
    ],
)
def test_agent(variables: dict[str, Any], agent: dict[str, int]) -> None:
    [service] = load_balancer_services(["node1"], {"node1": {"vllm_instances": [instance()], **variables}})
    assert service["servers"] == [{"name": "node1", "address": "node1", "port": 8000, **agent}]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"health_check_agent_enabled": "perhaps"},
            "node1: health_check_agent_enabled is 'perhaps'; give true or false.",
        ),
        ({"health_check_agent_port": "http"}, "node1: health_check_agent_port is 'http'; give a TCP port."),
    ],
)
def test_an_agent_that_is_none(variables: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        load_balancer_services(["node1"], {"node1": {"vllm_instances": [instance()], **variables}})
    assert str(error.value) == sentence


def test_entrance() -> None:
    assert FilterModule().filters() == {"load_balancer_services": load_balancer_services}


INVENTORY = """
all:
  hosts:
    lb: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children:
    vllm_nodes:
      vars:
        base_port: 8000
        model_name: qwen3vl
        vllm_instances:
          - {name: "{{ model_name }}", port: "{{ base_port + offset }}", frontend_port: "{{ base_port }}"}
        vllm_address: "10.0.0.{{ number }}"
      hosts:
        node1: {number: 1, offset: 0, health_check_agent_port: "{{ 9499 + number }}"}
        node2: {number: 2, offset: 7, health_check_agent_enabled: "{{ number == 1 }}"}
"""

PLAY = """
- hosts: lb
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ groups['vllm_nodes'] | inferops.vllm.load_balancer_services(hostvars) | to_json }}"
        dest: "{{ result }}"
        mode: "0600"
"""


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Run the filter on an inventory in a real play."""

    def run(inventory: str) -> tuple[subprocess.CompletedProcess[str], Any]:
        (tmp_path / "hosts.yml").write_text(inventory)
        (tmp_path / "play.yml").write_text(PLAY)
        done = subprocess.run(
            ["ansible-playbook", "-i", "hosts.yml", "play.yml", "-e", f"result={tmp_path}/result.json"],
            cwd=tmp_path,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(Path(".ansible/collections").absolute())},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        result = tmp_path / "result.json"
        return done, json.loads(result.read_text()) if result.exists() else None

    return run


def test_templates_are_resolved_for_each_node(play: Any) -> None:
    done, services = play(INVENTORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert services == [
        {
            "name": "qwen3vl",
            "port": 8000,
            "servers": [
                {"name": "node1", "address": "10.0.0.1", "port": 8000, "ready_port": 9500},
                {"name": "node2", "address": "10.0.0.2", "port": 8007},
            ],
        }
    ]


def test_an_undefined_variable_is_named(play: Any) -> None:
    done, services = play(INVENTORY.replace("base_port: 8000", "another: 8000"))
    assert done.returncode != 0
    assert services is None
    assert "'base_port' is undefined" in done.stdout + done.stderr
