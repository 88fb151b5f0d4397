# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verdict needs to know of the GPUs of this host: one look at them, and the kernel's words."""

from __future__ import annotations

from dataclasses import dataclass

from . import kernel_log, xid
from .child import ChildFailed, Unresponsive, call
from .facts import Node
from .look import look
from .xid import Event

LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Survey:
    node: Node
    events: tuple[Event, ...] = ()
    """Of this boot."""
    log_error: str = ""
    """Why the kernel's words are not known."""


def survey(look_seconds: float) -> Survey:
    """Never fails.

    :param look_seconds: What the driver has for its answer.
    """
    # A child of its own: the log tells most where the driver does not answer.
    try:
        lines, trouble = call(kernel_log.read, 0.0, deadline_seconds=LOG_SECONDS)
    except (Unresponsive, ChildFailed) as error:
        lines, trouble = [], str(error)
    return Survey(look(look_seconds), tuple(xid.parse_all(lines)), trouble)
