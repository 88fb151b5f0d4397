# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses as NVML, nvidia-smi, sysfs and the kernel log write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import pci


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("00000000:B3:00.0", "0000:b3:00"),
        ("PCI:0000:b3:00", "0000:b3:00"),
        ("PCI:0000:b3:00.0", "0000:b3:00"),
        ("0000:b3:00.0", "0000:b3:00"),
        ("0000:b3:00", "0000:b3:00"),
        ("b3:00.0", "0000:b3:00"),
        (" 0000:B3:1F.7\n", "0000:b3:1f"),
        ("00010000:01:00.0", "10000:01:00"),
        ("0009:01:00.0", "0009:01:00"),
        ("", ""),
        ("b3", ""),
        ("0000:b3:00.8", ""),
        ("0000:b3:00.0 and more", ""),
        ("0000:g3:00.0", ""),
        ("[N/A]", ""),
    ],
)
def test_normalize(address: str, expected: str) -> None:
    assert pci.normalize(address) == expected


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F), st.integers(0, 7))
def test_who_writes_it_makes_no_difference(domain: int, bus: int, device: int, function: int) -> None:
    kernel = f"{domain:04x}:{bus:02x}:{device:02x}"
    nvml = f"{domain:08X}:{bus:02X}:{device:02X}.{function}"
    assert pci.normalize(nvml) == pci.normalize(kernel) == kernel


@given(st.text())
def test_any_text(text: str) -> None:
    normal = pci.normalize(text)
    assert normal == "" or pci.normalize(normal) == normal
