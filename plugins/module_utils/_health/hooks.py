# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells others what happened, by a command or a webhook. Healing never waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Callable
from urllib.parse import urlsplit

from .._serving import client
from .settings import Hook

MAX_RUNNING = 16
"""Of each hook. What happens while so many are at it is not told to it: something is wrong with the hook."""

Log = Callable[..., None]


class Hooks:
    """The hooks of a node."""

    def __init__(self, hooks: Sequence[Hook], log: Log) -> None:
        self._hooks = hooks
        self._log = log
        self._running: dict[asyncio.Task[None], Hook] = {}

    def tell(self, event: Mapping[str, Any]) -> None:
        """Begin every hook that wants an event of this kind; returns at once."""
        for hook in self._hooks:
            if event["event"] not in hook.events:
                continue
            # Each by itself: one that hangs must not silence the others.
            if sum(running is hook for running in self._running.values()) >= MAX_RUNNING:
                self._log(event="hook", hook=_shown(hook), error=f"left out: {MAX_RUNNING} of it are still running")
                continue
            task = asyncio.get_running_loop().create_task(self._tell(hook, json.dumps(event).encode()))
            self._running[task] = hook
            task.add_done_callback(self._running.pop)

    async def finish(self) -> None:
        """Wait for what is under way; each has its own time limit."""
        if self._running:
            await asyncio.wait(set(self._running))

    async def _tell(self, hook: Hook, event: bytes) -> None:
        error = await (_call(hook, event) if hook.url else _execute(hook, event))
        if error:
            self._log(event="hook", hook=_shown(hook), error=error)


def _shown(hook: Hook) -> str:
    """Only the command's name or the host: the rest may hold a secret."""
    return str(urlsplit(hook.url).hostname) if hook.url else hook.command[0]


async def _execute(hook: Hook, event: bytes) -> str:
    """Run a command with the event as its standard input; what went wrong."""
    try:
        process = await asyncio.create_subprocess_exec(
            *hook.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    try:
        await asyncio.wait_for(process.communicate(event), hook.timeout_seconds)
    except asyncio.TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return f"killed after {hook.timeout_seconds:g} s"
    return f"exit status {process.returncode}" if process.returncode else ""


async def _call(hook: Hook, event: bytes) -> str:
    """Post the event to a URL; what went wrong."""
    url = urlsplit(hook.url)
    tls = ssl.create_default_context() if url.scheme == "https" else None
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    port = url.port or (443 if tls else 80)
    answer = await client.request(url.hostname or "", port, "POST", path, hook.timeout_seconds, event, tls=tls)
    return "" if answer.status and answer.status < 400 else str(answer)
