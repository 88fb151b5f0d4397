# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drain flag of an instance: a file, so that it survives the agent, the server and the node's restart."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from .._serving import files

DIRECTORY = "/var/lib/vllm/drain"


def path(name: str, directory: str = DIRECTORY) -> str:
    return os.path.join(directory, name)


def is_drained(name: str, directory: str = DIRECTORY) -> bool:
    return os.path.exists(path(name, directory))


def read(name: str, directory: str = DIRECTORY) -> dict[str, Any]:
    """Since when and why an instance is drained; what a damaged flag does not tell is missing."""
    try:
        with open(path(name, directory), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def set_flag(name: str, reason: str, directory: str = DIRECTORY) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files.replace(path(name, directory), json.dumps({"since": since, "reason": reason}), sync=True)


def clear(name: str, directory: str = DIRECTORY) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path(name, directory))
