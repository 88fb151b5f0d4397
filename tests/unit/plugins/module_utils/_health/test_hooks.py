# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks: told what they want to know, given up in time, and never waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._health.hooks import MAX_RUNNING, Hooks
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Hook

EVENT = {"instance": "tiny", "event": "restart", "reason": "kill, 1 of 5: it hangs"}
SECRET = "geheim"
QUICK_SECONDS = 0.1


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def tell(hooks: list[Hook], log: Callable[..., None], event: dict[str, str] | None = None) -> float:
    """Tell hooks of an event and wait for their end; how long it took to tell them."""
    took = 0.0

    async def go() -> None:
        nonlocal took
        told = Hooks(hooks, log)
        began = time.monotonic()
        told.tell(event or EVENT)
        took = time.monotonic() - began
        await told.finish()

    run(go())
    return took


def script(folder: Path, text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f"cd {folder}; {text}", SECRET)


def test_command_gets_the_event_on_its_standard_input(tmp_path: Path, log: Any) -> None:
    tell([Hook(("restart",), script(tmp_path, "cat >told"))], log)
    assert json.loads((tmp_path / "told").read_text()) == EVENT
    assert log == []


def test_only_wanted_events_are_told(tmp_path: Path, log: Any) -> None:
    tell([Hook(("quarantine", "recovered"), script(tmp_path, "cat >told"))], log)
    assert not (tmp_path / "told").exists()


def test_hanging_command_is_killed_with_its_children(tmp_path: Path, log: Any) -> None:
    command = script(tmp_path, "sleep 600 & echo $! >child; trap '' TERM; sleep 600")
    took = tell([Hook(("restart",), command, timeout_seconds=1)], log)
    assert took < QUICK_SECONDS
    assert log == [{"event": "hook", "hook": "/bin/sh", "error": "killed after 1 s"}]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_command_that_leaves_a_child_behind_holds_nothing_up(tmp_path: Path, log: Any) -> None:
    tell([Hook(("restart",), script(tmp_path, "sleep 3 & true"), timeout_seconds=1)], log)
    assert log == []


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("/bin/sh", "-c", "exit 3", SECRET), "exit status 3"),
        # It does not read what it is given.
        (("/bin/sh", "-c", "exec <&-; exit 4", SECRET), "exit status 4"),
        (("/nowhere/notify", SECRET), "cannot be run: No such file or directory"),
        (("/etc/passwd", SECRET), "cannot be run: Permission denied"),
    ],
)
def test_failing_command_is_logged_without_its_arguments(log: Any, command: tuple[str, ...], error: str) -> None:
    tell([Hook(("restart",), command)], log)
    assert log == [{"event": "hook", "hook": command[0], "error": error}]


def serve_webhook(answer: bytes | None, hooks: Callable[[int], list[Hook]], log: Callable[..., None]) -> list[bytes]:
    """What a webhook is sent; None: it never answers."""
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        received.append(head + await reader.readexactly(length))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(take, "127.0.0.1", 0)
        told = Hooks(hooks(server.sockets[0].getsockname()[1]), log)
        told.tell(EVENT)
        await told.finish()
        await asyncio.sleep(0)
        server.close()

    run(go())
    return received


def test_webhook_is_posted_the_event(log: Any) -> None:
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    (sent,) = serve_webhook(
        answer, lambda port: [Hook(("restart",), url=f"http://127.0.0.1:{port}/a/b?token={SECRET}")], log
    )
    head, _blank, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(f"POST /a/b?token={SECRET} HTTP/1.1\r\n".encode())
    assert json.loads(body) == EVENT
    assert log == []


def test_slow_webhook_is_given_up_and_keeps_its_secret(log: Any) -> None:
    def hooks(port: int) -> list[Hook]:
        return [Hook(("restart",), url=f"http://user:{SECRET}@127.0.0.1:{port}/?{SECRET}", timeout_seconds=0.3)]

    serve_webhook(None, hooks, log)
    assert log == [{"event": "hook", "hook": "127.0.0.1", "error": "no answer within 0.3 s"}]


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", "HTTP 500"), (b"", "EOFError"), (b"hello\r\n", "NotHttp")],
)
def test_webhook_that_refuses_is_logged(log: Any, answer: bytes, error: str) -> None:
    serve_webhook(answer, lambda port: [Hook(("restart",), url=f"http://127.0.0.1:{port}/{SECRET}")], log)
    (fields,) = log
    assert fields["error"].startswith(error)
    assert SECRET not in str(fields)


def test_https_without_a_certificate_of_trust_is_refused(log: Any) -> None:
    serve = b"HTTP/1.1 200 OK\r\n\r\n"

    def hooks(port: int) -> list[Hook]:
        return [Hook(("restart",), url=f"https://127.0.0.1:{port}/{SECRET}", timeout_seconds=1)]

    async def go() -> None:
        async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(serve)
            writer.close()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        told = Hooks(hooks(server.sockets[0].getsockname()[1]), log)
        told.tell(EVENT)
        await told.finish()
        server.close()

    run(go())
    assert len(log) == 1
    assert SECRET not in str(log)


def test_flood_leaves_out_what_a_stuck_hook_cannot_take_and_nobody_else(tmp_path: Path, log: Any) -> None:
    stuck = Hook(("restart",), ("/bin/sleep", "600"), timeout_seconds=2)
    good = Hook(("restart",), script(tmp_path, "cat >>told; echo >>told"))
    processes = []

    async def go() -> None:
        hooks = Hooks([stuck, good], log)
        for _number in range(MAX_RUNNING + 8):
            began = time.monotonic()
            hooks.tell(EVENT)
            processes.append(time.monotonic() - began)
            while sum(running is good for running in hooks._running.values()):
                await asyncio.sleep(0.01)
        await hooks.finish()

    run(go())
    assert max(processes) < QUICK_SECONDS
    assert len((tmp_path / "told").read_text().split("\n")) - 1 == MAX_RUNNING + 8
    left_out = [fields for fields in log if fields["error"].startswith("left out")]
    assert (
        left_out
        == [{"event": "hook", "hook": "/bin/sleep", "error": f"left out: {MAX_RUNNING} of it are still running"}] * 8
    )


def children() -> set[str]:
    """Of this process, those of other tests among them."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_nothing_is_left_running(log: Any) -> None:
    before = children()
    tell([Hook(("restart",), ("/bin/sleep", "600"), timeout_seconds=0.2)] * 3, log)
    assert children() <= before
