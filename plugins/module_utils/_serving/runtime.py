# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps the instances of a node running, as their watchers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from .instance import unit_name
from .verdict import Unit

COMMAND_SECONDS = 20
"""systemctl is asked to begin things, not to wait for them."""
STATES = {"active": "running", "reloading": "running", "deactivating": "stopping", "inactive": "stopped"}


class CommandFailed(Exception):
    """A command of the runtime failed; the message says which and why."""


class Systemd:
    """Units vllm@<name>.service."""

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        """State of each instance; one that systemd does not know is stopped."""
        properties = "--property=Id,ActiveState,NRestarts,Result"
        output = await run("systemctl", "show", properties, *(unit_name(name) for name in names))
        by_unit = {unit_name(name): name for name in names}
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\n\n")]
        return {by_unit[block["Id"]]: _unit(block) for block in blocks if block.get("Id") in by_unit}

    async def restart(self, name: str) -> None:
        """Stop it as an operator would, and start it again."""
        # A unit that systemd has given up on takes no start before this.
        await run("systemctl", "reset-failed", unit_name(name))
        await run("systemctl", "restart", "--no-block", unit_name(name))

    async def kill(self, name: str) -> None:
        """Kill every process in its control group; systemd then starts it again."""
        await run("systemctl", "kill", "--signal=SIGKILL", unit_name(name))

    async def stop(self, name: str) -> None:
        """Stop it, to stay stopped until somebody starts it or the node boots."""
        await run("systemctl", "stop", "--no-block", unit_name(name))


def _unit(block: dict[str, str]) -> Unit:
    # Not listed: failed, and activating with its wait for the next try.
    state = STATES.get(block["ActiveState"], "failed" if block["ActiveState"] == "failed" else "starting")
    return Unit(state, int(block.get("NRestarts") or 0), block.get("Result", ""))


async def run(*command: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
    """Standard output of a command; CommandFailed where it fails or does not end in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_seconds)
    except asyncio.TimeoutError:
        process.kill()
        raise CommandFailed(f"{' '.join(command)}: not done within {timeout_seconds:g} s") from None
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)}: {err.decode(errors='replace').strip()}")
    return out.decode(errors="replace")
