# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: health_check_error
short_description: What is wrong with the settings of a health check
version_added: "0.1.0"
author: The inferops authors
description:
  - Checks settings as M(inferops.vllm.health_config) takes them, and says in one sentence what is wrong.
  - The sentence names variables of the role P(inferops.vllm.health_check#role), and nothing that may be secret.
  - Touches no host.
options:
  _input:
    description: The settings.
    type: dict
    required: true
seealso:
  - module: inferops.vllm.health_config
"""

EXAMPLES = r"""
- name: Check the settings
  vars:
    error: "{{ {'look_seconds': 2} | inferops.vllm.health_check_error }}"
  ansible.builtin.assert:
    that: error | length == 0
    fail_msg: "{{ error }}"
"""

RETURN = r"""
_value:
  description: The sentence; empty where nothing is wrong.
  type: str
  sample: >-
    health_check_agent_port is 0, not a port from 1 to 65535: write a port from 1 to 65535
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.inferops.vllm.plugins.module_utils._health import settings as health


def health_check_error(settings: Any) -> str:
    """What is wrong, in the words of the role's variables."""
    return health.problem(settings)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"health_check_error": health_check_error}
