# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's variables become on their way to the plan, and what the plan says to each phase of the role."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.inferops.vllm.plugins.filter.nvidia_driver_plan import FilterModule, nvidia_driver_plan


def looked(**changes: Any) -> dict[str, Any]:
    """A Debian 12 with one H100 and no driver."""
    bare = {
        "distribution": {"id": "debian", "version": "12", "name": "Debian 12"},
        "architecture": "x86_64",
        "kernel": "6.1.0-41-amd64",
        "kernels": [],
        "modules": {},
        "gpus": [{"address": "0000:3b:00", "device": "0x2330"}],
        "nvswitches": 0,
        "loaded": "",
        "library": "",
        "libcuda": "",
        "packages": {},
        "managed": "",
        "secure_boot": False,
        "nouveau": False,
        "runfile": False,
        "reboot_pending": "",
    }
    return {"driver": {**bare, **changes}}


def package(version: str, *, held: bool = True) -> dict[str, Any]:
    return {"version": version, "held": held, "complete": True}


def test_numbers_and_truths_of_yaml_are_taken_for_words() -> None:
    """Ansible hands a bare 580 on as a number, and the words true and yes as a truth."""
    plan = nvidia_driver_plan(looked(), {"branch": 580, "fabricmanager": True})
    assert plan["problems"] == []
    assert plan["packages"] == ["nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-fabricmanager"]
    assert plan["missing"] == [*plan["headers"], *plan["packages"]]


def test_problem_before_a_change_leaves_nothing_to_do() -> None:
    plan = nvidia_driver_plan(looked(), {"branch": "570"})
    assert len(plan["problems"]) == 1
    assert (plan["source"], plan["packages"], plan["missing"]) == ("none", [], [])


def test_what_apt_would_do_is_judged() -> None:
    transaction = {"install": {"libcuda1": "590.48.01-1"}, "remove": [], "unknown": [], "offered": {}, "error": ""}
    plan = nvidia_driver_plan({**looked(), "transaction": transaction}, {})
    assert "apt would install libcuda1 590.48.01-1" in plan["problems"][0]


def test_what_is_installed_is_judged() -> None:
    parts = {"libcuda1": package("580.159.04-1"), "nvidia-driver-cuda": package("580.159.04-1", held=False)}
    there = looked(managed="nvidia", packages=parts, loaded="575.57.08", modules={"6.1.0-41-amd64": ""})
    plan = nvidia_driver_plan(there, {}, installed=True)
    assert "the kernel 6.1.0-41-amd64 is installed without the NVIDIA module" in plan["problems"][0]
    assert plan["unheld"] == ["nvidia-driver-cuda"]
    assert plan["reboot"] == "driver 575.57.08 is loaded, and 580.159.04 is installed"
    assert nvidia_driver_plan(there, {}, installed=True, modules=False)["problems"] == []


def test_unknown_setting_is_told() -> None:
    with pytest.raises(AnsibleFilterError, match="there is no setting 'brunch'; use branch, container_toolkit,"):
        nvidia_driver_plan(looked(), {"brunch": "580"})


def test_name() -> None:
    assert FilterModule().filters() == {"nvidia_driver_plan": nvidia_driver_plan}
