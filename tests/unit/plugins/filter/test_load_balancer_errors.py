# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong services of a load balancer: a sentence for each."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.filter.load_balancer_errors import FilterModule, load_balancer_errors


def server(name: Any = "node1", address: Any = "10.0.0.11", port: Any = 8000) -> dict[str, Any]:
    return {"name": name, "address": address, "port": port}


def service(name: Any = "qwen3vl", port: Any = 80, servers: Any = None) -> dict[str, Any]:
    return {"name": name, "port": port, "servers": [server()] if servers is None else servers}


@pytest.mark.parametrize(
    "services",
    [
        [service()],
        [service(), service("bge", 81)],
        [service(port="80", servers=[server(port="8000"), server("node2", "fd00::12")])],
        [service(servers=[server("node-2.example.com", "node-2.example.com")])],
        [service(servers=[server(port=8000), server("second", port=8001)])],
        [
            {
                **service("chat", servers=[{**server(), "ready_port": "9410"}, server("node2", "fd00::12")]),
                "instance": "a",
            }
        ],
    ],
)
def test_right(services: list[dict[str, Any]]) -> None:
    assert load_balancer_errors(services, {"load_balancer_stats_port": 8404}) == []


@pytest.mark.parametrize(
    ("services", "sentence"),
    [
        ([], "is empty; list at least one service with its name, port and servers."),
        ([service(name=None)], ": a service is named None; use letters, digits, '.', '_' and '-'."),
        ([service(name="a b")], ": a service is named 'a b'; use letters, digits, '.', '_' and '-'."),
        ([service(name="_stats")], ": a service is named '_stats'; use letters, digits, '.', '_' and '-'."),
        ([service(), service(port=81)], ": two services are named 'qwen3vl'; give each a name of its own."),
        ([service(port=None)], ": service 'qwen3vl' has port None; give it one from 1 to 65535."),
        ([service(port=0)], ": service 'qwen3vl' has port 0; give it one from 1 to 65535."),
        ([service(port=65536)], ": service 'qwen3vl' has port 65536; give it one from 1 to 65535."),
        (
            [service(), service("bge", "80")],
            ": service 'bge' has port 80, and so has service 'qwen3vl'; give each a port of its own.",
        ),
        (
            [service(port=8404)],
            ": service 'qwen3vl' has port 8404, and so has load_balancer_stats_port; give each a port of its own.",
        ),
        ([service(servers=[])], ": service 'qwen3vl' has no servers; list at least one, or leave the service out."),
        (
            [{"name": "qwen3vl", "port": 80}],
            ": service 'qwen3vl' has no servers; list at least one, or leave the service out.",
        ),
        (
            [service(servers=[server(address=None)])],
            ": server 'node1' of service 'qwen3vl' has no address; give it a host name or an IP address.",
        ),
        (
            [service(servers=[server(address="a b")])],
            ": server 'node1' of service 'qwen3vl' has address 'a b'; give it a host name or an IP address.",
        ),
        (
            [service(servers=[server(name="node 1")])],
            ": service 'qwen3vl' has a server named 'node 1'; use letters, digits, '.', '_' and '-'.",
        ),
        (
            [service(servers=[server(port="http")])],
            ": server 'node1' of service 'qwen3vl' has port 'http'; give it one from 1 to 65535.",
        ),
        (
            [service(servers=[{**server(), "ready_port": 0}])],
            (
                ": server 'node1' of service 'qwen3vl' has ready_port 0; "
                "give the port of its node's agent, from 1 to 65535, or leave it out."
            ),
        ),
        (
            [{**service(), "instance": "a b"}],
            ": service 'qwen3vl' has instance 'a b'; use letters, digits, '.', '_' and '-', or leave it out.",
        ),
        (
            [service(servers=[server(), server(address="10.0.0.12")])],
            ": service 'qwen3vl' has two servers named 'node1'; give each a name of its own.",
        ),
        (
            [service(servers=[server(), server("node2")])],
            ": servers 'node1' and 'node2' of service 'qwen3vl' are both at 10.0.0.11 port 8000; give each its own.",
        ),
    ],
)
def test_wrong(services: list[dict[str, Any]], sentence: str) -> None:
    prefix = "load_balancer_services" + ("" if sentence.startswith(":") else " ")
    assert load_balancer_errors(services, {"load_balancer_stats_port": 8404}) == [prefix + sentence]


def test_the_load_balancers_own_ports_are_two() -> None:
    ports = {"load_balancer_stats_port": 8404, "load_balancer_metrics_port": 8404}
    assert load_balancer_errors([service()], ports) == [
        "load_balancer_metrics_port: 8404 is load_balancer_stats_port already; give each a port of its own."
    ]


def test_all_that_is_wrong_is_said() -> None:
    assert len(load_balancer_errors([service(port=0), service("bge", 81, [])])) == 2


def test_entrance() -> None:
    assert FilterModule().filters() == {"load_balancer_errors": load_balancer_errors}
