# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of nodes as an inventory gives them."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError


def count(variable: str, value: Any, whole: int, up: bool) -> int:
    """A number, or a percentage of the whole, rounded up or down; AnsibleFilterError where it is neither."""
    text = str(value).strip()
    number = text[:-1] if text.endswith("%") else text
    if not number.isdecimal():
        raise AnsibleFilterError(f"{variable} is {value!r}: write a number of nodes or a percentage of them.")
    if not text.endswith("%"):
        return int(number)
    return -(-whole * int(number) // 100) if up else whole * int(number) // 100
