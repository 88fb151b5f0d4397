# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-health-check, which cron runs each minute: sees to the agent, and stands in for it where there is none."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time

from .._serving import client, runtime, supervisord
from .._serving.runtime import CommandFailed, Systemd
from .._serving.supervisord import Refused, Supervisord
from . import settings
from .agent import STALE_SECONDS, Agent, log
from .keeper import Node
from .lock import Lock
from .settings import Settings

AGENT = "vllm-node-agent"
UNIT = f"{AGENT}.service"
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


class SystemdService:
    """The agent as a unit of systemd."""

    async def restart(self) -> bool:
        """Restart it unless it is switched off, whatever state it is in; whether that was begun."""
        if (await runtime.run("systemctl", "show", "--property=UnitFileState", "--value", UNIT)).strip() in OFF:
            return False
        # A stopped process does not leave by SIGTERM.
        with contextlib.suppress(CommandFailed):
            await runtime.run("systemctl", "kill", "--signal=SIGKILL", UNIT)
        await runtime.run("systemctl", "reset-failed", UNIT)
        await runtime.run("systemctl", "restart", "--no-block", UNIT)
        return True

    async def revive(self) -> None:
        """systemd is always there."""


class SupervisorService:
    """The agent as a program of our supervisord, which nobody but this program looks after."""

    def __init__(self, supervisord: Supervisord, program: str) -> None:
        self._supervisord = supervisord
        self._program = program

    async def restart(self) -> bool:
        try:
            return await asyncio.to_thread(self._restart)
        except Refused as error:
            raise CommandFailed(str(error)) from error

    def _restart(self) -> bool:
        state = self._supervisord.state(AGENT)
        if not state:
            return False
        if state in supervisord.ON:
            self._supervisord.signal(AGENT, "KILL")
        else:
            self._supervisord.start(AGENT)
        return True

    async def revive(self) -> None:
        """Start supervisord, and all that it keeps, where it does not answer."""
        try:
            await asyncio.to_thread(self._supervisord.states)
        except Refused as error:
            log(event="supervisord", action="start", reason=str(error))
            try:
                await runtime.run(self._program)
            except CommandFailed as failure:
                log(event="supervisord", error=str(failure))


def service() -> SystemdService | SupervisorService:
    """What keeps the agent on this node."""
    if os.path.isdir(Systemd.SOCKET_DIR):
        return SystemdService()
    return SupervisorService(Supervisord(), os.path.join(os.path.dirname(sys.argv[0]), "vllm-supervisord"))


async def restart_agent(chosen: Settings, reason: str, keeping: SystemdService | SupervisorService) -> bool:
    """Restart the agent unless it is switched off; whether it answers."""
    try:
        if not await keeping.restart():
            return False
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
    keeping = service()
    await keeping.revive()
    if chosen.agent_enabled:
        reason = await trouble(chosen)
        if reason:
            await asyncio.sleep(SECOND_THOUGHT_SECONDS)
            reason = await trouble(chosen)
        if not reason or await restart_agent(chosen, reason, keeping):
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
        asyncio.run(check(settings.load(), Node()))
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm-health-check: {error}") from error
