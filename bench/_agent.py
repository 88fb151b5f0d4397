# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node agent as a process of its own, on a folder in place of a node: `python -m bench._agent FOLDER PORT`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Collection
from pathlib import Path

from ansible_collections.inferops.vllm.plugins.module_utils._health.agent import Agent
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Node
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit


class Runtime:
    """In place of systemd: whatever it is told, the servers stay as they are."""

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        return dict.fromkeys(names, Unit("running"))

    async def restart(self, name: str) -> None:
        """Not done."""

    async def kill(self, name: str) -> None:
        """Not done."""

    async def stop(self, name: str) -> None:
        """Not done."""

    def processes(self, main: int) -> list[int]:
        return control_group(main)


def control_group(pid: int) -> list[int]:
    """A server and its engine, as they would be in a unit: here all servers share the control group of the bench."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [pid, *map(int, children)]
    return [pid]


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    node = Node(lambda _instance: Runtime(), *(str(folder / name) for name in ("config", "state", "drain")))
    asyncio.run(serve(Settings(agent_address="127.0.0.1", agent_port=port), node))


async def serve(settings: Settings, node: Node) -> None:
    await Agent(settings, node).serve()


if __name__ == "__main__":
    main()
