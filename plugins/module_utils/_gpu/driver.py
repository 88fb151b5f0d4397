# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of the driver, and the devices that it drives, as the files of a host tell them."""

from __future__ import annotations

import os
import re

from . import child, pci
from .facts import Driver

VERSION = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")
LOADED = ("sys/module/nvidia/version", "proc/driver/nvidia/version")
MODULES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""The last two are the names of Debian's own packages."""
LIBRARY = "libnvidia-ml.so.1"
LIBCUDA = "libcuda.so.1"
LIBRARY_FOLDERS = (
    f"usr/lib/{os.uname().machine}-linux-gnu",
    f"usr/lib/{os.uname().machine}-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
)
VENDOR = "0x10de"
DISPLAY = "0x0300"
CONTROLLER_3D = "0x0302"
BRIDGE = "0x0680"
"""What an NVSwitch says that it is."""


def versions(root: str = "/") -> Driver:
    """Those that files tell, with no need of the driver."""
    return Driver(loaded=loaded(root), library=library(root), libcuda=library(root, LIBCUDA))


def loaded(root: str = "/") -> str:
    return next(filter(None, (_version(_read(os.path.join(root, path))) for path in LOADED)), "")


def library(root: str = "/", name: str = LIBRARY) -> str:
    for folder in LIBRARY_FOLDERS:
        path = os.path.join(root, folder, name)
        if os.path.exists(path):
            return _version(os.path.basename(os.path.realpath(path)))
    return ""


def installed(root: str = "/") -> str:
    """Asks a program: to be called in a child."""
    try:
        _status, text = child.output("modinfo", "--basedir", root, "--field", "version", *MODULES)
    except OSError:
        return ""  # no modinfo here, and no module either
    return _version(text)


def devices(root: str = "/") -> tuple[tuple[str, ...], int]:
    """Addresses of the GPUs, and how many NVSwitches there are."""
    folder = os.path.join(root, "sys/bus/pci/devices")
    gpus, nvswitches = set(), 0
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        device = os.path.join(folder, entry)
        if _read(os.path.join(device, "vendor")).strip() != VENDOR:
            continue
        kind = _read(os.path.join(device, "class"))
        nvswitches += kind.startswith(BRIDGE)
        # A virtual function belongs to a GPU that has an address of its own.
        if kind.startswith((DISPLAY, CONTROLLER_3D)) and not os.path.lexists(os.path.join(device, "physfn")):
            gpus.add(pci.normalize(entry))
    return tuple(sorted(gpus)), nvswitches


def _version(text: str) -> str:
    found = VERSION.search(text)
    return found.group() if found else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
