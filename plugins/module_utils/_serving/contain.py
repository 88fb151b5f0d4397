# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the container of an instance: the parent of its server, and the check of its health.

Both are the service user's. The kernel kills all of the container when its first process ends, so that no server leaves
anything behind, and the Docker engine starts it again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .._gpu import start
from .._gpu.look import look
from . import client, launch
from .instance import Instance
from .tend import Tender
from .verdict import DOWN, FAILED, HUNG

WAIT_SECONDS = 30.0
"""A start is waited for so long; then a new container is to have another try: devices come with the start of one."""
ANSWER_SECONDS = 10.0
ILL = (HUNG, DOWN, FAILED)


class Contained(Tender):
    """A tender that the engine has put into the right place, as the right user."""

    def _prepare(self) -> None:
        self._give_up_at = time.monotonic() + WAIT_SECONDS

    def _become_service(self) -> None:
        """Nothing is left to be given up."""

    def _waits_no_longer(self) -> bool:
        return time.monotonic() > self._give_up_at


def trouble(instance: Instance) -> str:
    """What is wrong with the server by all that is seen from inside; empty where nothing is."""
    lost = lost_gpu(instance)
    if lost:
        return f"in the container, {lost}: vllm-instance restart {instance.name}"
    return asyncio.run(_judged(instance))


def lost_gpu(instance: Instance) -> str:
    """The device files can be taken away from a container that runs, while all is well outside."""
    given = launch.gpus_seen(instance)
    # Memory that is in use now is the server's own.
    return start.obstacle(look(launch.GPU_SECONDS), given, 0.0) if given else ""


async def _judged(instance: Instance) -> str:
    """The verdict of the node's agent; where none runs, what the server says itself."""
    told = await client.request("127.0.0.1", instance.agent_port, "GET", f"/ready/{instance.name}", ANSWER_SECONDS)
    verdict: Any = told.json()
    if isinstance(verdict, dict) and "state" in verdict:
        return f"{verdict['state']}: {verdict.get('evidence', '')}" if verdict["state"] in ILL else ""
    health = await client.request(instance.address, instance.port, "GET", "/health", ANSWER_SECONDS)
    return "" if health.ok else f"its server answers {health}"
