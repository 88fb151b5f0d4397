# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that judge GPUs."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  expect:
    description: What the host should have. What is not given is not judged.
    type: dict
    default: {}
    suboptions:
      count:
        description: Number of GPUs.
        type: int
      name:
        description: Part of the model's name, such as V(H100).
        type: str
      memory_total_bytes:
        description: Memory of each GPU, at least.
        type: int
      ecc_mode:
        description: Whether ECC is on.
        type: bool
      nvlinks_active:
        description: Active NVLinks of each GPU, at least.
        type: int
      pcie_width:
        description: PCIe lanes of each GPU, at least.
        type: int
      driver:
        description: Version of the driver, at least.
        type: str
  limits:
    description: What is still normal.
    type: dict
    default: {}
    suboptions:
      idle_memory_bytes:
        description: Memory in use while no process is seen to hold the GPU.
        type: int
        default: 1073741824
      temperature_margin_celsius:
        description: How close to the temperature at which it slows down a GPU may come.
        type: int
        default: 2
      ecc_corrected:
        description: Corrected memory errors since the last reset.
        type: int
        default: 50000000
      rows_remapped_uncorrected:
        description: Rows of memory that were remapped for uncorrectable errors, ever.
        type: int
        default: 512
      pages_retired:
        description: Pages of memory that were retired, ever; of GPUs before Ampere.
        type: int
        default: 63
      recent_seconds:
        description: For how long an XID counts that calls for nothing but attention.
        type: float
        default: 3600
  timeout_seconds:
    description: Seconds that the driver has for its answer.
    type: int
    default: 10
"""
