# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the files of made-up hosts tell of their driver and its devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import driver
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver

# Test runners have threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

OPEN_MODULE = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (builder@host)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
"""
MACHINE = os.uname().machine


def write(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def pci_device(root: Path, address: str, kind: str, vendor: str = "0x10de") -> Path:
    folder = f"sys/bus/pci/devices/{address}"
    write(root, f"{folder}/vendor", f"{vendor}\n")
    return write(root, f"{folder}/class", f"{kind}\n").parent


def modinfo(folder: Path, script: str) -> None:
    write(folder, "modinfo", f"#!/bin/sh\n{script}\n").chmod(0o755)


def test_bare_host(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert driver.versions(root) == Driver()
    assert driver.devices(root) == ((), 0)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("sys/module/nvidia/version", "580.159.04\n", "580.159.04"),
        ("sys/module/nvidia/version", "570.86\n", "570.86"),
        ("proc/driver/nvidia/version", OPEN_MODULE, "580.159.04"),
        ("proc/driver/nvidia/version", "no version\n", ""),
        ("sys/module/nvidia_uvm/version", "580.159.04\n", ""),
    ],
)
def test_loaded(tmp_path: Path, file: str, text: str, expected: str) -> None:
    write(tmp_path, file, text)
    assert driver.loaded(str(tmp_path)) == expected


@pytest.mark.parametrize(
    "folder", [f"usr/lib/{MACHINE}-linux-gnu", f"usr/lib/{MACHINE}-linux-gnu/nvidia/current", "usr/lib64", "usr/lib"]
)
def test_library(tmp_path: Path, folder: str) -> None:
    write(tmp_path, f"{folder}/libnvidia-ml.so.580.95.05")
    assert driver.library(str(tmp_path)) == ""
    (tmp_path / folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    assert driver.library(str(tmp_path)) == "580.95.05"


def test_library_through_alternatives(tmp_path: Path) -> None:
    """As Debian has it."""
    folder = tmp_path / "usr/lib64"
    write(folder, "nvidia/libnvidia-ml.so.550.163.01")
    (tmp_path / "alternative").symlink_to(folder / "nvidia/libnvidia-ml.so.550.163.01")
    (folder / "libnvidia-ml.so.1").symlink_to(tmp_path / "alternative")
    assert driver.library(str(tmp_path)) == "550.163.01"


def test_library_without_a_version(tmp_path: Path) -> None:
    write(tmp_path, "usr/lib/libnvidia-ml.so.1")
    assert driver.library(str(tmp_path)) == ""


def test_library_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib64"
    folder.mkdir(parents=True)
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    assert driver.library(str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 580.159.04", "580.159.04"),
        # Of Debian's own packages: the first name is not known.
        ("echo 'modinfo: ERROR: Module nvidia not found.' >&2; echo 550.163.01; exit 1", "550.163.01"),
        ("echo 'modinfo: ERROR: Module nvidia not found.' >&2; exit 1", ""),
        (
            '[ "$*" = "--basedir $ROOT --field version nvidia nvidia-current nvidia-current-open" ] && echo 580.1',
            "580.1",
        ),
    ],
)
def test_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str) -> None:
    modinfo(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ROOT", "/made/up")
    assert driver.installed("/made/up") == expected


def test_installed_without_modinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.defpath", str(tmp_path))
    monkeypatch.setattr(driver.child, "SYSTEM_FOLDERS", ())
    assert driver.installed(str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (Driver(), False),
        (Driver(loaded="580.95.05"), False),
        (Driver(loaded="580.95.05", installed="580.95.05", library="580.95.05"), False),
        (Driver(loaded="580.95.05", library="580.159.04"), True),
        (Driver(loaded="580.95.05", installed="580.159.04"), True),
        (Driver(loaded="580.95.05", library="580.95.05", libcuda="580.159.04"), True),
        (Driver(loaded="580.95.05", installed="580.159.04", library="580.95.05"), True),
        # Nothing is loaded yet.
        (Driver(installed="580.159.04", library="580.95.05"), False),
    ],
)
def test_mismatch(versions: Driver, expected: bool) -> None:
    assert versions.mismatch is expected


def test_devices(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:b3:00.0", "0x030200")
    pci_device(tmp_path, "0000:19:00.0", "0x030000")
    pci_device(tmp_path, "0000:19:00.1", "0x040300")
    pci_device(tmp_path, "10000:01:00.0", "0x030200")
    for place in range(4):
        pci_device(tmp_path, f"0000:c{place}:00.0", "0x068000")
    # A display of another maker, a part of a GPU that is shared out, and a device that is going.
    pci_device(tmp_path, "0000:03:00.0", "0x030000", vendor="0x1a03")
    (pci_device(tmp_path, "0000:b3:00.4", "0x030200") / "physfn").symlink_to("../0000:b3:00.0")
    (tmp_path / "sys/bus/pci/devices/0000:04:00.0").mkdir()
    assert driver.devices(str(tmp_path)) == (("0000:19:00", "0000:b3:00", "10000:01:00"), 4)
