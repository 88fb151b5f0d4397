# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the GPUs of an instance let its server start: a start that must fail takes minutes to do so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .facts import VERSION_MISMATCH, Driver, Gpu, Node, Process

GPU_MEMORY_UTILIZATION = 0.92
"""What vLLM takes of a GPU where it is not told, from 0.33 on."""
SHARE_OPTIONS = ("gpu-memory-utilization", "device-memory-utilization")
FIXED_OPTION = "kv-cache-memory-bytes"


def memory_share(options: Mapping[str, Any]) -> float | None:
    """Part of its GPUs' memory that a server needs to start, by its options; None where they do not tell."""
    given = {option.replace("_", "-"): value for option, value in options.items()}
    if given.get(FIXED_OPTION) is not None:
        return None  # it takes what its weights need, and this
    try:
        share = float(next((given[option] for option in SHARE_OPTIONS if option in given), GPU_MEMORY_UTILIZATION))
    except (TypeError, ValueError, OverflowError):
        return None
    return share if 0 < share <= 1 else None


def obstacle(node: Node, gpus: Collection[int], share: float) -> str:
    """Why a server could not start, and what to do; empty where nothing stands in its way, or a look failed for itself.

    :param gpus: Indices of the instance's GPUs; none where it uses none.
    :param share: Of each GPU's memory, what the server takes, as --gpu-memory-utilization has it.
    """
    if not gpus:
        return ""
    if node.unresponsive:
        return "the NVIDIA driver does not answer: reboot the node"
    if not node.source:
        return _blindness(node)
    if node.driver.loaded and node.driver.libcuda not in ("", node.driver.loaded):
        return _exchanged(node.driver)
    found = {gpu.index: gpu for gpu in node.gpus}
    troubles = (_trouble(index, found.get(index), share) for index in gpus)
    return next(filter(None, troubles), "")


def _blindness(node: Node) -> str:
    # A driver that answers serves a start as well, whatever is on the disk for the next boot.
    if node.driver.mismatch or node.code == VERSION_MISMATCH:
        return _exchanged(node.driver)
    return "" if node.code is None else f"the GPUs cannot be seen: {node.error}"


def _exchanged(driver: Driver) -> str:
    others = [found for found in (driver.library, driver.libcuda, driver.installed) if found not in ("", driver.loaded)]
    versions = f" ({driver.loaded} is loaded, and {others[0]} is installed)" if driver.loaded and others else ""
    return f"the NVIDIA driver was exchanged{versions}: reboot the node, drained by inferops.vllm.driver_upgrade"


def _trouble(index: int, gpu: Gpu | None, share: float) -> str:
    if gpu is None:
        return f"GPU {index} is not there: reboot the node, then have its hardware looked at"
    if gpu.lost:
        return f"GPU {index} is lost: reboot the node"
    if gpu.reset_required:
        return f"GPU {index} must be reset before it can be used"
    # With MIG a server has a part of it, whose memory is not told here.
    if gpu.mig_mode or gpu.memory_free_bytes is None or gpu.memory_total_bytes is None:
        return ""
    needed = share * gpu.memory_total_bytes
    if gpu.memory_free_bytes >= needed:
        return ""
    return (
        f"GPU {index} has {gpu.memory_free_bytes >> 20} MiB free of the {round(needed) >> 20} MiB that are needed"
        f" ({share:.0%} of it){_held_by(gpu.processes or ())}"
    )


def _held_by(processes: Collection[Process]) -> str:
    if not processes:
        return ", and no process is seen to hold the rest: look for one with fuser -v /dev/nvidia*, or reset the GPU"
    largest = sorted(processes, key=lambda process: process.used_bytes or 0, reverse=True)
    held = ", ".join(f"{process.name or 'a process'} (pid {process.pid})" for process in largest)
    return f", held by {held}: stop that, or lower gpu-memory-utilization"
