# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that others read while they are written, and that may hold anything when they are read."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

LARGEST_BYTES = 64 * 1024


def replace(path: str, text: str, mode: int = 0o644, sync: bool = False) -> None:
    """Write a file whole or not at all, and its directory where there is none.

    OSError where it cannot be written; the file is then as it was.

    :param sync: Have it survive a power failure.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    staged = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(staged, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), mode)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(staged, path)
    except BaseException:
        if os.path.lexists(staged):
            os.unlink(staged)
        raise


def read_json(path: str) -> Any:
    """What a file of JSON holds; OSError where it cannot be read, ValueError or RecursionError where it holds none."""
    with open(path, "rb", opener=_open_at_once) as stream:
        data = stream.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
    return json.loads(data.decode("utf-8"), parse_constant=_refuse)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a named pipe in its place must not make the caller wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
