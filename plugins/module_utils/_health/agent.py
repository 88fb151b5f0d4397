# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vllm-node-agent: keeps the instances of its node serving, and tells who asks how they are."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .._serving import instance as instances
from .._serving import process
from .._serving.instance import Instance
from . import settings
from .gpus import Gpus
from .hooks import Hooks
from .keeper import Keeper, Node
from .lock import Lock
from .server import Question
from .settings import Settings

ROUND_SECONDS = 5
"""Between looks for instances that came, went or changed, and words to systemd's watchdog."""
STALE_SECONDS = 30
"""A keeper that has not looked for this long makes the agent a dead one."""
BACKLOG = 1024


def log(**fields: Any) -> None:
    """One JSON line for a change; a log that cannot be written is no reason to stop."""
    stamp = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps({"time": stamp, **fields}) + "\n")
        sys.stdout.flush()


class Agent:
    """The keepers of a node's instances."""

    def __init__(self, chosen: Settings, node: Node) -> None:
        self.keepers: dict[str, Keeper] = {}
        self.settings = chosen
        self._node = node
        self._lock = Lock(node.state_dir)
        self._hooks = Hooks(chosen.hooks, log)
        self._gpus = Gpus(self._given_gpus, log)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._damaged: dict[str, str] = {}
        self._began_with = self._last_seen = sources()

    def rescan(self) -> None:
        """Follow the instances that the node has."""
        wanted = self._read()
        for name in [name for name, keeper in self.keepers.items() if keeper.instance != wanted.get(name)]:
            self._drop(name)
        for name in sorted(set(wanted) - set(self.keepers)):
            self._keep(wanted[name])

    def _read(self) -> dict[str, Instance]:
        found = {}
        for name in instances.names(self._node.config_dir):
            try:
                found[name] = instances.load(name, self._node.config_dir)
                self._damaged.pop(name, None)
            except (OSError, ValueError, TypeError) as error:
                if self._damaged.get(name) != str(error):
                    log(instance=name, event="description", error=f"{type(error).__name__}: {error}")
                self._damaged[name] = str(error)
                if name in self.keepers:
                    found[name] = self.keepers[name].instance
        return found

    def _keep(self, instance: Instance) -> None:
        keeper = Keeper(instance, self.settings, self._node, log, self._hooks.tell, self._lock.acquire, self._gpus)
        self.keepers[instance.name] = keeper
        self._tasks[instance.name] = asyncio.get_running_loop().create_task(self._run(keeper))

    async def _run(self, keeper: Keeper) -> None:
        while True:
            try:
                await keeper.run()
            except Exception as error:  # one instance's trouble must not end the watch over the others
                log(instance=keeper.instance.name, event="error", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(self.settings.look_seconds)

    def _given_gpus(self) -> dict[str, list[int]]:
        return {name: keeper.instance.gpus for name, keeper in self.keepers.items() if keeper.instance.gpus}

    async def _watch_gpus(self) -> None:
        while True:
            try:
                await self._gpus.run(self.settings.gpu_look_seconds)
            except Exception as error:  # no trouble with a driver must end the watch over the instances
                log(event="error", error=f"GPUs: {type(error).__name__}: {error}")
                await asyncio.sleep(self.settings.gpu_look_seconds)

    def _drop(self, name: str) -> None:
        self._tasks.pop(name).cancel()
        self.keepers.pop(name).close()

    @property
    def fresh(self) -> bool:
        """Whether every instance has been looked at lately."""
        now = time.monotonic()
        return all(now - keeper.looked_at < STALE_SECONDS for keeper in self.keepers.values())

    def _outdated(self) -> bool:
        """Whether this program or its settings have changed on disk, and are no longer changing."""
        before, self._last_seen = self._last_seen, sources()
        return self._began_with != self._last_seen == before

    async def close(self) -> None:
        for name in list(self.keepers):
            self._drop(name)
        self._lock.release()
        await self._hooks.finish()

    async def stand_in(self, seconds: float) -> None:
        """Keep the instances for a while, without a port to ask."""
        self.rescan()
        watch = asyncio.get_running_loop().create_task(self._watch_gpus())
        await asyncio.sleep(seconds)
        watch.cancel()
        await self.close()

    async def _listen(self) -> asyncio.AbstractServer:
        address, port = self.settings.agent_address, self.settings.agent_port
        try:
            return await asyncio.get_running_loop().create_server(
                lambda: Question(self.keepers), address, port, backlog=BACKLOG
            )
        except OSError as error:
            # asyncio's own words repeat the address.
            raise OSError(
                f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)};"
                " choose another health_check_agent_port or health_check_agent_address"
            ) from error

    async def serve(self) -> None:
        """Keep the instances and answer until SIGTERM; OSError where the port cannot be had."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, self.rescan)
        server = await self._listen()
        self.rescan()
        watch = loop.create_task(self._watch_gpus())
        notify({"READY": "1"})
        while not ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), ROUND_SECONDS)
            self.rescan()
            if self.fresh:
                notify({"WATCHDOG": "1"})
            if self._outdated():
                log(event="agent", action="restart", reason="its program or its settings have changed")
                break
        notify({"STOPPING": "1"})
        watch.cancel()
        server.close()
        await self.close()


def sources() -> dict[str, int]:
    """Files that a running agent is made of, and when they were written."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [
        os.path.join(folder, name)
        for folder, _folders, names in os.walk(package)
        for name in names
        if name[-3:] == ".py"
    ]
    found = {}
    for path in [settings.PATH, *paths]:
        with contextlib.suppress(OSError):
            found[path] = os.stat(path).st_mtime_ns
    return found


def notify(states: Mapping[str, str]) -> None:
    """Tell systemd, where it started this program and wants to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in states.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.sendall(message.encode())


def main() -> None:
    argparse.ArgumentParser(prog="vllm-node-agent", description=__doc__).parse_args()
    if "SUPERVISOR_ENABLED" in os.environ:
        # A supervisord that is started after the death of another starts an agent of its own.
        process.control(process.PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        asyncio.run(Agent(settings.load(), Node()).serve())
    except (OSError, ValueError) as error:
        raise SystemExit(f"vllm-node-agent: {error}") from error
