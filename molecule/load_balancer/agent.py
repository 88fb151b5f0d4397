# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for a node's agent, as far as load balancers ask it; it looks at no server.

Each instance is ready at first. POST /simulator with {"instance", "state", "draining"} says otherwise; "asked" in the
answer counts what was asked about the instance so far, by the kind of question.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

SERVING = ("ready", "busy")


class Instance:
    """What the agent says of one instance."""

    def __init__(self) -> None:
        self.state = "ready"
        self.draining = False
        self.asked: Counter[str] = Counter()

    def serves(self) -> bool:
        return self.state in SERVING and not self.draining

    def line(self, kind: str) -> str:
        """The answer to an agent check."""
        if self.draining:
            return "drain"
        if kind == "open":
            return "ready up"
        return "ready up 100%" if self.serves() else f"down #{self.state}"

    def script(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.state = wanted.get("state", self.state)
        self.draining = wanted.get("draining", self.draining)
        return {"state": self.state, "draining": self.draining, "asked": self.asked}


INSTANCES = {name: Instance() for name in sys.argv[2:]}


async def answer_http(method: str, path: str, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    length = 0
    while header := (await reader.readline()).strip().lower():
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
    if (method, path) == ("POST", "/simulator"):
        wanted = json.loads(await reader.readexactly(length))
        return 200, INSTANCES[wanted["instance"]].script(wanted)
    instance = INSTANCES.get(path.removeprefix("/ready/"))
    if not instance:
        return 404, {}
    instance.asked["ready"] += 1
    return (200 if instance.serves() else 503), {"state": instance.state, "draining": instance.draining}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    words = (await reader.readline()).decode().split()
    if words and words[-1].startswith("HTTP/"):
        status, body = await answer_http(words[0], words[1], reader)
        text = json.dumps(body)
        writer.write(f"HTTP/1.0 {status} -\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
    elif words and words[0] in INSTANCES:
        kind = "open" if words[1:] == ["open"] else "agent"
        INSTANCES[words[0]].asked[kind] += 1
        writer.write(INSTANCES[words[0]].line(kind).encode() + b"\n")
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
