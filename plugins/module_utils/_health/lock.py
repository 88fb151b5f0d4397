# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One program of a node heals at a time: the agent, or cron's check in its place."""

from __future__ import annotations

import contextlib
import fcntl
import os


class Lock:
    """A lock that goes with the process that holds it."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, "lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, or keep it; False while another program has it."""
        if self._descriptor is not None:
            return True
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            # A disk that is full or read-only is no reason to let servers lie: then nobody can have the lock.
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None
