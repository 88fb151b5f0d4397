# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which servers may be taken out of service, and by which names they are called."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.filter.by_instance import by_instance
from ansible_collections.inferops.vllm.plugins.filter.capacity_error import capacity_error


def view(**servers: bool) -> dict[str, Any]:
    return {"tiny": {name: {"up": up} for name, up in servers.items()}}


@pytest.mark.parametrize(
    ("servers", "leaving", "least", "left"),
    [
        ({"a": True, "b": True}, ["a"], "50%", None),
        ({"a": True, "b": True}, ["a", "b"], "50%", 0),
        ({"a": True, "b": False}, ["a"], "50%", 0),
        ({"a": True, "b": False}, ["b"], "50%", None),
        ({"a": False, "b": False}, ["a", "b"], "100%", None),
        ({"a": True}, ["a"], "50%", 0),
        ({"a": True}, ["a"], 0, None),
        ({"a": True, "b": True, "c": True}, ["a"], "50%", None),
        ({"a": True, "b": True, "c": True}, ["a"], "67%", 2),
        ({"a": True, "b": True, "c": True}, ["a"], 2, None),
        ({"a": True, "b": True, "c": True}, ["a", "b"], "2", 1),
    ],
)
def test_enough_must_stay(servers: dict[str, bool], leaving: list[str], least: Any, left: int | None) -> None:
    error = capacity_error({"lb1": view(**servers)}, {"tiny": leaving}, least)
    assert (left is None) == (not error)
    if left is not None:
        assert f"tiny would be left with {left} of {len(servers)} servers at lb1" in error


def test_the_sentence() -> None:
    seen = {"lb1": view(a=True, b=True, c=False), "lb2": view(a=True, b=True, c=True)}
    assert capacity_error(seen, {"tiny": ["a"], "other": ["a"]}, "50%") == (
        "tiny would be left with 1 of 3 servers at lb1 (b), and 50% of them, 2, must stay"
    )
    assert capacity_error(seen, {"tiny": ["a", "b"]}, 1) == (
        "tiny would be left with 0 of 3 servers at lb1, and 1 must stay"
    )


def test_without_a_load_balancer_the_inventory_counts() -> None:
    services = [{"name": "tiny", "servers": [{"name": "a"}, {"name": "b"}]}]
    assert not capacity_error({}, {"tiny": ["a"]}, "50%", services)
    assert "at the inventory" in capacity_error({}, {"tiny": ["a", "b"]}, "50%", services)


@pytest.mark.parametrize("least", ["half", "101%", "-1", "", None, "50 %"])
def test_wrong_least(least: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="write a number of servers, or a percentage such as 50%"):
        capacity_error({}, {}, least)


def test_by_instance() -> None:
    assert by_instance({"a": ["x", "y"], "b": ["x"], "c": []}) == {"x": ["a", "b"], "y": ["a"]}
