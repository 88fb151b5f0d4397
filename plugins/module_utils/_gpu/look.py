# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at the GPUs of this host, which ends in time whatever state the driver is in."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from .._serving import process
from . import driver, nvml, smi
from .child import ChildFailed, Unresponsive, call
from .facts import FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND, Gpu, Node

NOT_ASKED = (None, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND)
"""What a node says where it is not the driver that has failed, but the way to it."""


def look(deadline_seconds: float, root: str = "/") -> Node:
    """Never fails; `root` is another directory in tests, for what files tell."""
    nvml.preload()
    try:
        return Node.from_json(call(read, root, deadline_seconds=deadline_seconds))
    except (Unresponsive, ChildFailed) as error:
        return unanswered(error, root)


def read(root: str = "/") -> dict[str, Any]:
    """What a child answers: the node as JSON."""
    node = _with_files(_ask(), root)
    return replace(node, driver=replace(node.driver, installed=driver.installed(root))).to_json()


def unanswered(error: Unresponsive | ChildFailed, root: str = "/") -> Node:
    """What is known where a child did not answer."""
    return _with_files(Node(error=str(error), unresponsive=isinstance(error, Unresponsive)), root)


def _ask() -> Node:
    try:
        node = nvml.read(nvml.load())
    except nvml.Unusable as error:
        node = Node(error=str(error))
    if node.source or node.code not in NOT_ASKED:
        return node
    other = smi.read()
    code = node.code if other.code is None and not other.source else other.code
    return replace(other, fallback=node.error, code=code)


def _with_files(node: Node, root: str) -> Node:
    versions = driver.versions(root)
    addresses, nvswitches = driver.devices(root)
    return replace(
        node,
        # A library that answered is the one that programs load, wherever it lies.
        driver=replace(versions, library=node.driver.library or versions.library, cuda=node.driver.cuda),
        gpus=_located(node.gpus, addresses),
        pci_addresses=addresses,
        nvswitches=nvswitches,
        at=time.monotonic(),
        boot_id=process.boot_id(os.path.join(root, "proc")),
    )


def _located(gpus: tuple[Gpu, ...], addresses: tuple[str, ...]) -> tuple[Gpu, ...]:
    """With the addresses of those that do not tell theirs, as lost ones: they are counted in the order of the bus."""
    told = {gpu.pci_address for gpu in gpus}
    silent = [gpu.index for gpu in gpus if gpu.pci_address is None]
    left = [address for address in addresses if address not in told]
    if len(silent) != len(left):
        return gpus
    places = dict(zip(silent, left))
    return tuple(_placed(gpu, places[gpu.index]) if gpu.index in places else gpu for gpu in gpus)


def _placed(gpu: Gpu, address: str) -> Gpu:
    errors = {name: reason for name, reason in gpu.errors.items() if name != "pci_address"}
    return replace(gpu, pci_address=address, errors=errors)
