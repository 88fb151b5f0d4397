# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a fleet is well, and what is said where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.plugin_utils.fleet import Balancer, Node, report, table

SEEN: dict[str, Any] = {
    "served_model_name": "org/tiny",
    "record": {"venv": "/opt/vllm/venvs/0.33.0"},
    "current": True,
    "in_flight": 3,
    "probe": {"state": "down", "evidence": "one look"},
    "drain": {"drained": False, "since": "", "reason": ""},
    "agent": {"state": "ready", "evidence": "answers", "gpu": {"state": "ok"}, "quarantine": ""},
}
UP = Balancer("lb1", services={"tiny": {"gpu1": {"up": True, "status_text": "UP"}}})


def node(seen: dict[str, Any] | None = None, **others: Any) -> Node:
    words: dict[str, Any] = {"wanted": ("tiny",), "info": {"instances": {"tiny": {**SEEN, **(seen or {})}}}}
    return Node("gpu1", **{**words, **others})


def test_all_is_well() -> None:
    found = report([node(version="0.33.0", gpus={"state": "ok", "reasons": []})], [UP])
    assert found["ok"]
    assert table(found) == [
        "NODE  INSTANCE  VERDICT  VERSION  MODEL     REQUESTS  GPU  LOAD BALANCERS",
        "gpu1  tiny      ready    0.33.0   org/tiny  3         ok   1/1 up",
        "",
        "All is well: 1 instances on 1 nodes.",
    ]


@pytest.mark.parametrize(
    ("made", "balancer", "problem"),
    [
        (node({"agent": {**SEEN["agent"], "state": "hung", "evidence": "no step"}}), UP, "gpu1: tiny: hung: no step"),
        (node({"agent": None}), UP, "gpu1: tiny: down: one look"),
        (
            node({"drain": {"drained": True, "since": "today", "reason": "memory"}}),
            UP,
            "gpu1: tiny: drained since today: memory",
        ),
        (node(), Balancer("lb1", "unreachable"), "lb1: unreachable"),
        (node(), Balancer("lb1"), "gpu1: tiny: lb1 sends it no requests: unknown there"),
        (
            node(),
            Balancer("lb1", services={"tiny": {"gpu1": {"up": False, "status_text": "DOWN (agent)"}}}),
            "gpu1: tiny: lb1 sends it no requests: DOWN (agent)",
        ),
        (
            node(configured={"changed_instances": ["tiny"], "stale": ["tiny"]}),
            UP,
            "gpu1: tiny: its configuration on the node is older than the inventory",
        ),
        (node(configured={"stale": ["tiny"]}), UP, "gpu1: tiny: its server is older than its configuration"),
        (node({"current": False}), UP, "gpu1: tiny: its server is older than its configuration"),
        (node(version="0.34.0"), UP, "gpu1: tiny: it runs 0.33.0, and the inventory has 0.34.0"),
        (node(wanted=()), UP, "gpu1: tiny: surplus: the inventory does not have it"),
        (
            node(info={"instances": {}}),
            UP,
            "gpu1: tiny: missing: the inventory has it, and the node does not",
        ),
        (node(info={}, reachable=False), UP, "gpu1: unreachable"),
        (node(info={}, failure="no Python"), UP, "gpu1: no Python"),
        (node(gpus={"state": "drain", "reasons": ["GPU 0: hot"]}), UP, "gpu1: its GPUs are drain: GPU 0: hot"),
    ],
)
def test_what_is_not_well_is_named(made: Node, balancer: Balancer, problem: str) -> None:
    found = report([made], [balancer])
    assert not found["ok"]
    assert found["problems"] == [problem]
    assert table(found)[-1] == f"  {problem}"


def test_an_agent_that_does_not_answer() -> None:
    info = {"instances": {"tiny": {**SEEN, "agent": None, "probe": {"state": "ready", "evidence": ""}}}}
    found = report([node(info={**info, "agent_error": "refused"})], [UP])
    assert found["problems"] == ["gpu1: its agent does not answer: refused"]


def test_hosts_without_anything_are_shown() -> None:
    lines = table(report([Node("gpu1", reachable=False), Node("gpu2", info={"instances": {}})], []))
    assert lines[1].split() == ["gpu1", "-", "unreachable", "-", "-", "-", "-", "-"]
    assert lines[2].split() == ["gpu2", *"-" * 7]
