# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that judge GPUs take alike; documented in plugins/doc_fragments/gpu.py."""

from __future__ import annotations

from typing import Any

from .verdict import Limits

TIMEOUT_SECONDS = 10
ARGUMENTS: dict[str, dict[str, Any]] = {
    "expect": {
        "type": "dict",
        "default": {},
        "options": {
            "count": {"type": "int"},
            "name": {"type": "str"},
            "memory_total_bytes": {"type": "int"},
            "ecc_mode": {"type": "bool"},
            "nvlinks_active": {"type": "int"},
            "pcie_width": {"type": "int"},
            "driver": {"type": "str"},
        },
    },
    "limits": {
        "type": "dict",
        "default": {},
        "options": {
            "idle_memory_bytes": {"type": "int", "default": Limits.idle_memory_bytes},
            "temperature_margin_celsius": {"type": "int", "default": Limits.temperature_margin_celsius},
            "ecc_corrected": {"type": "int", "default": Limits.ecc_corrected},
            "rows_remapped_uncorrected": {"type": "int", "default": Limits.rows_remapped_uncorrected},
            "pages_retired": {"type": "int", "default": Limits.pages_retired},
            "recent_seconds": {"type": "float", "default": Limits.recent_seconds},
        },
    },
    "timeout_seconds": {"type": "int", "default": TIMEOUT_SECONDS},
}
