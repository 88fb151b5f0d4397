# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many nodes a roll takes at a time."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.filter.roll_awaited import roll_awaited
from ansible_collections.inferops.vllm.plugins.filter.roll_batches import roll_batches
from ansible_collections.inferops.vllm.plugins.filter.roll_order import roll_order


def fleet(count: int, *names: str, **variables: Any) -> dict[str, dict[str, Any]]:
    instances = [{"name": name} for name in names or ("tiny",)]
    return {f"node{number:02}": {"vllm_instances": instances, **variables} for number in range(1, count + 1)}


@pytest.mark.parametrize(
    ("count", "variables", "expected"),
    [
        (2, {}, [1, 1]),
        (3, {}, [1, 1, 1]),
        (10, {}, [1, 2, 5, 2]),
        (100, {}, [1, 25, 50, 24]),
        (10, {"vllm_roll_batches": 3}, [3, 3, 3, 1]),
        (10, {"vllm_roll_batches": ["10%"]}, [1] * 10),
        (10, {"vllm_roll_min_ready": 9}, [1] * 10),
        (10, {"vllm_roll_min_ready": "75%"}, [1, 2, 2, 2, 2, 1]),
        (1, {"vllm_roll_min_ready": 0}, [1]),
        (4, {"vllm_roll_min_ready": "0%", "vllm_roll_batches": "100%"}, [4]),
    ],
)
def test_sizes(count: int, variables: dict[str, Any], expected: list[int]) -> None:
    hosts = fleet(count, **variables)
    assert roll_batches(list(hosts), hosts, list(hosts)) == expected


def test_nodes_that_are_not_rolled_serve_meanwhile() -> None:
    hosts = fleet(10)
    assert roll_batches(list(hosts)[:5], hosts, list(hosts)) == [1, 1, 3]


def test_the_scarcest_instance_decides() -> None:
    hosts = fleet(10)
    for node in list(hosts)[4:6]:
        hosts[node]["vllm_instances"] = [{"name": "tiny"}, {"name": "rare"}]
    assert roll_batches(list(hosts), hosts, list(hosts)) == [1, 2, 2, 5]


def test_nothing_to_roll() -> None:
    assert roll_batches([], {}, []) == [1]


def test_a_fleet_of_one_is_refused() -> None:
    hosts = fleet(1)
    with pytest.raises(AnsibleFilterError, match=r"tiny runs on 1 node.* accept .*-e vllm_roll_min_ready=0"):
        roll_batches(list(hosts), hosts, list(hosts))


@pytest.mark.parametrize("value", ["half", -1, "", None, "5 %"])
def test_numbers_that_are_none(value: Any) -> None:
    hosts = fleet(3, vllm_roll_batches=value)
    with pytest.raises(AnsibleFilterError, match=r"vllm_roll_batches is .*write a number of servers, or a percentage"):
        roll_batches(list(hosts), hosts, list(hosts))


def seen(**up: bool) -> dict[str, dict[str, dict[str, Any]]]:
    return {"tiny": {node: {"up": is_up} for node, is_up in up.items()}}


def test_awaited_is_what_the_load_balancer_has() -> None:
    assert roll_awaited(seen(a=True), "a", ["tiny", "other"]) == {"tiny": "a"}
    assert roll_awaited(seen(a=True), "b", ["tiny"]) == {}


def test_what_an_earlier_roll_has_left_out_comes_first() -> None:
    hosts: dict[str, dict[str, Any]] = {
        "b": {"__roll": {"left_out": False}},
        "c": {"__roll": {"left_out": True}},
        "B": {"__roll": {"left_out": False}},
        "a": {},
    }
    assert roll_order(["b", "a", "c", "B"], hosts) == ["c", "B", "a", "b"]
