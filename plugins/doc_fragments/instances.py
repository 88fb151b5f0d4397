# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that work on the instances of a node."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  names:
    description: Instances; all instances of the node where not set.
    type: list
    elements: str
  config_dir:
    description: Directory of the instances' files.
    type: path
    default: /etc/vllm/instances
"""

    DRAIN = r"""
options:
  drain_dir:
    description: Directory of the files that mark drained instances.
    type: path
    default: /var/lib/vllm/drain
"""

    # For a module whose action plugin calls it again and again, so that no connection stays open for minutes.
    SLICES = r"""
options:
  _slice:
    description: Not for playbooks; how far the controller's half of this module has come.
    type: dict
"""
