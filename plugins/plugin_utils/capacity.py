# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of nodes as an inventory gives them."""

from __future__ import annotations

import re
from typing import Any

from ansible.errors import AnsibleFilterError


def count(variable: str, value: Any, whole: int, up: bool) -> int:
    """A number, or a percentage of the whole, rounded up or down; AnsibleFilterError where it is neither."""
    match = re.fullmatch(r"(\d+)(%?)", str(value).strip())
    if not match or (match[2] and int(match[1]) > 100):
        raise AnsibleFilterError(f"{variable} is {value!r}: write a number of servers, or a percentage such as 50%")
    number = int(match[1])
    if not match[2]:
        return number
    return -(-whole * number // 100) if up else whole * number // 100
