# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a server from its start, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node, Process
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.start import memory_share, obstacle

GIB = 1 << 30
WELL = Gpu(0, memory_total_bytes=80 * GIB, memory_free_bytes=79 * GIB, processes=())
NODE = Node("nvml", driver=Driver("580.95.05", "580.95.05", "580.95.05"), gpus=(WELL, replace(WELL, index=1)))
ENGINE, EXPORTER = Process(4242, "VLLM::EngineCor", 70 * GIB), Process(7, "dcgm-exporter", None)


def first(**changes: object) -> Node:
    """The node, with another first GPU."""
    return replace(NODE, gpus=(replace(WELL, **changes), NODE.gpus[1]))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (NODE, ""),
        (first(memory_free_bytes=72 * GIB), ""),
        (first(memory_free_bytes=None), ""),
        (replace(NODE, unresponsive=True), "the NVIDIA driver does not answer: reboot the node"),
        (replace(NODE, driver=Driver("580.95.05", "580.105.08", "580.95.05")), ""),
        (
            Node(error="mismatch", driver=Driver("580.95.05", "580.105.08", "580.95.05")),
            "the NVIDIA driver was exchanged (580.95.05 is loaded, and 580.105.08 is installed): reboot the node,"
            " drained by inferops.vllm.driver_upgrade",
        ),
        (
            Node(error="mismatch", code=18),
            "the NVIDIA driver was exchanged: reboot the node, drained by inferops.vllm.driver_upgrade",
        ),
        (
            replace(NODE, driver=Driver("580.95.05", "580.95.05", "580.95.05", libcuda="590.48.01")),
            "the NVIDIA driver was exchanged (580.95.05 is loaded, and 590.48.01 is installed): reboot the node,"
            " drained by inferops.vllm.driver_upgrade",
        ),
        (Node(error="driver not loaded", code=9), "the GPUs cannot be seen: driver not loaded"),
        (Node(error="the child was killed"), ""),
        (first(memory_free_bytes=GIB, mig_mode=True), ""),
        (
            replace(NODE, gpus=(NODE.gpus[1],)),
            "GPU 0 is not there: reboot the node, then have its hardware looked at",
        ),
        (first(lost=True), "GPU 0 is lost: reboot the node"),
        (first(reset_required=True), "GPU 0 must be reset before it can be used"),
        (
            first(memory_free_bytes=9 * GIB, processes=(EXPORTER, ENGINE)),
            "GPU 0 has 9216 MiB free of the 73728 MiB that are needed (90% of it), held"
            " by VLLM::EngineCor (pid 4242), dcgm-exporter (pid 7): stop that, or lower gpu-memory-utilization",
        ),
        (
            first(memory_free_bytes=9 * GIB),
            "GPU 0 has 9216 MiB free of the 73728 MiB that are needed (90% of it), and no process is seen to hold the"
            " rest: look for one with fuser -v /dev/nvidia*, or reset the GPU",
        ),
    ],
)
def test_obstacle(node: Node, sentence: str) -> None:
    assert obstacle(node, [0], 0.9) == sentence


def test_trouble_of_another_gpu_is_none() -> None:
    assert obstacle(first(lost=True), [1], 0.9) == ""


def test_instance_without_gpus() -> None:
    assert obstacle(replace(NODE, unresponsive=True), [], 0.9) == ""


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 0.92),
        ({"gpu-memory-utilization": 0.5}, 0.5),
        ({"gpu_memory_utilization": "0.5"}, 0.5),
        ({"gpu-memory-utilization": "half"}, None),
        ({"gpu-memory-utilization": None}, None),
        ({"gpu-memory-utilization": 2}, None),
        ({"gpu-memory-utilization": 0.5, "kv-cache-memory-bytes": 1 << 30}, None),
    ],
)
def test_share_of_the_memory(options: dict[str, object], share: float | None) -> None:
    assert memory_share(options) == share
