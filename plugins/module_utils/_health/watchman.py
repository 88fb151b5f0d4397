# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-health-check, which cron runs each minute: sees to the agent, and stands in for it where there is none."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

from .._serving import client, runtime
from .._serving.runtime import CommandFailed, Systemd
from . import settings
from .agent import STALE_SECONDS, Agent, log
from .keeper import Node
from .lock import Lock
from .settings import Settings

UNIT = "vllm-node-agent.service"
ANSWER_SECONDS = 5
SECOND_THOUGHT_SECONDS = 3
"""Somebody may be restarting the agent just now."""
RESTART_SECONDS = 10
"""What a restarted agent has to answer."""
STAND_IN_SECONDS = 50
"""Up to the next minute's check, less what starting takes."""
OFF = ("disabled", "masked", "masked-runtime", "not-found", "")


async def trouble(chosen: Settings) -> str:
    """What is wrong with the agent; empty where nothing is."""
    try:
        return await _trouble(chosen)
    except (KeyError, TypeError):
        return "another program answers on its port"


async def _trouble(chosen: Settings) -> str:
    answer = await client.request(chosen.asked_address, chosen.agent_port, "GET", "/status", ANSWER_SECONDS)
    if not answer.ok:
        return f"/status: {answer}"
    page = answer.json()
    stale = [str(found["instance"]) for found in page["instances"] if found["look_age_seconds"] > STALE_SECONDS]
    return f"has not looked at {', '.join(stale)} for more than {STALE_SECONDS} s" if stale else ""


async def restart_agent(chosen: Settings, reason: str) -> bool:
    """Restart the agent unless it is switched off; whether it answers."""
    try:
        if (await runtime.run("systemctl", "show", "--property=UnitFileState", "--value", UNIT)).strip() in OFF:
            return False
        # A stopped process does not leave by SIGTERM.
        with contextlib.suppress(CommandFailed):
            await runtime.run("systemctl", "kill", "--signal=SIGKILL", UNIT)
        await runtime.run("systemctl", "reset-failed", UNIT)
        await runtime.run("systemctl", "restart", "--no-block", UNIT)
        log(event="agent", action="restart", reason=reason)
    except CommandFailed as error:
        log(event="agent", error=str(error))
        return False
    deadline = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        if not await trouble(chosen):
            return True
    return False


async def check(chosen: Settings, node: Node, seconds: float = STAND_IN_SECONDS) -> None:
    """One minute's work."""
    if chosen.agent_enabled:
        reason = await trouble(chosen)
        if reason:
            await asyncio.sleep(SECOND_THOUGHT_SECONDS)
            reason = await trouble(chosen)
        if not reason or await restart_agent(chosen, reason):
            return
    held = Lock(node.state_dir)
    # Not taken by the last minute's check, nor by an agent that is deaf but alive.
    if not held.acquire():
        return
    held.release()
    await Agent(chosen, node).stand_in(seconds)


def main() -> None:
    argparse.ArgumentParser(prog="vllm-health-check", description=__doc__).parse_args()
    try:
        asyncio.run(check(settings.load(), Node(Systemd())))
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm-health-check: {error}") from error
