# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the module M(inferops.vllm.model), which its action plugin checks as well."""

from __future__ import annotations

from typing import Any


def options() -> dict[str, dict[str, Any]]:
    return {
        "models": {"type": "list", "elements": "dict", "required": True},
        "root": {"type": "path", "default": "/var/lib/vllm/models"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "python": {"type": "path", "default": "/opt/vllm/current/bin/python"},
        "endpoint": {"type": "str"},
        "token_file": {"type": "path", "no_log": False},
    }
