# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of PCI devices. NVML, the kernel and its log each write them in another way."""

from __future__ import annotations

import re

ADDRESS = re.compile(r"(?:PCI:)?(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-7])?", re.IGNORECASE | re.ASCII)


def normalize(address: str) -> str:
    """As `dddd:bb:dd`, domain, bus and device without the function; empty where it is no address."""
    found = ADDRESS.fullmatch(address.strip())
    if not found:
        return ""
    domain, bus, device = found.groups("0")
    return f"{int(domain, 16):04x}:{bus.lower()}:{device.lower()}"
