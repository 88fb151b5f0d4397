# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server still has to do for its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import client, metrics
from .instance import Instance

LOOK_SECONDS = 0.5
WAIT_SECONDS = 10.0
"""A saturated server answers late; the next look asks again."""
EMPTY_LOOKS = 2
"""In a row: between the API server and the engine a request may be in neither count."""


@dataclass(frozen=True)
class InFlight:
    """Requests of a server; what is not known is None."""

    running: int | None = None
    waiting: int | None = None
    load: int | None = None
    """In the API server, those in the engines included."""

    @property
    def none(self) -> bool:
        return self.running == self.waiting == self.load == 0

    def __str__(self) -> str:
        if self.running is None:
            return "an unknown number of requests, for its metrics cannot be read"
        load = "an unknown number" if self.load is None else self.load
        return f"{self.running} requests running, {self.waiting} waiting and {load} in the API server"


NOTHING = InFlight(0, 0, 0)


async def count(instance: Instance, timeout_seconds: float) -> InFlight:
    """Requests in flight; none where no server listens."""
    page, counted = await client.get_all(instance.address, instance.port, ("/metrics", "/load"), timeout_seconds)
    if page.refused:
        return NOTHING
    engines = metrics.parse(page.body) if page.ok else {}
    return InFlight(
        running=int(sum(engine.running for engine in engines.values())) if engines else None,
        waiting=int(sum(engine.waiting for engine in engines.values())) if engines else None,
        load=metrics.in_api_server(counted),
    )


async def until_none(
    instance: Instance, not_before: float, deadline: float, clock: Callable[[], float] = time.monotonic
) -> tuple[InFlight, bool]:
    """Wait for a server to have nothing in flight; what it had at the last look, and whether that was the end.

    :param not_before: Looks before this time of the clock are not taken for the end.
    """
    empty = 0
    while True:
        found = await count(instance, max(0.1, min(WAIT_SECONDS, deadline - clock())))
        empty = empty + 1 if found.none and clock() >= not_before else 0
        if empty >= EMPTY_LOOKS or clock() >= deadline:
            return found, empty >= EMPTY_LOOKS
        await asyncio.sleep(LOOK_SECONDS)
