# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Children that answer, fail, hang, and are left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.child import Child, ChildFailed, Unresponsive, call
from ansible_collections.inferops.vllm.plugins.module_utils._serving import process

# Test runners have threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

LONG_SECONDS = 60.0
"""Much longer than any test takes, on a busy machine too."""
SHORT_SECONDS = 0.2


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG_SECONDS / 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    return call(function, *arguments, deadline_seconds=LONG_SECONDS)


def sleep_through_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(LONG_SECONDS)


def fail() -> NoReturn:
    raise ValueError("no such GPU")


def traits() -> dict[str, Any]:
    with open("/proc/self/comm", encoding="ascii") as stream:
        name = stream.read().strip()
    return {
        "name": name,
        "leads_session": os.getsid(0) == os.getpid(),
        "handler": str(signal.getsignal(signal.SIGTERM)),
        "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
        "files": len(os.listdir("/proc/self/fd")),
    }


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of all children, whose parent may not wait for them."""
    seen = []
    started = Child.__init__
    waited = os.waitpid

    def start(self: Child, *arguments: Any) -> None:
        started(self, *arguments)
        seen.append(self.pid)

    def wait(pid: int, options: int) -> tuple[int, int]:
        assert options == os.WNOHANG
        return waited(pid, options)

    monkeypatch.setattr(Child, "__init__", start)
    monkeypatch.setattr(os, "waitpid", wait)
    return seen


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in an uninterruptible sleep, SIGKILL does nothing."""
    killed = []
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, _number: killed.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, _number: killed.append(pid))
    yield
    for pid in set(killed):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("value", [None, 7, "GPU é", {"gpus": [{"index": 0, "name": None}]}, []])
def test_answer(value: object) -> None:
    assert ask(lambda: value) == value


def test_arguments() -> None:
    assert ask(max, 3, 9, 4) == 9


def test_call_from_a_thread() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(ask, traits).result()["handler"] == str(signal.SIG_DFL)


def test_answer_larger_than_a_pipe() -> None:
    assert len(ask(lambda: "x" * 4_000_000)) == 4_000_000


def test_exception() -> None:
    with pytest.raises(ChildFailed, match=r"^ValueError: no such GPU$"):
        ask(fail)


def test_answer_that_json_cannot_hold() -> None:
    with pytest.raises(ChildFailed, match="TypeError"):
        ask(object)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (signal.raise_signal, (signal.SIGSEGV,), "the child was killed: Segmentation fault"),
        (signal.raise_signal, (signal.SIGTERM,), "the child was killed: Terminated"),
        (os._exit, (3,), "the child ended with exit code 3"),
        (os._exit, (0,), "the child ended without an answer"),
        (sys.exit, (2,), "the child ended with exit code 1"),
    ],
)
def test_death(function: Callable[..., Any], arguments: tuple[int], expected: str) -> None:
    with pytest.raises(ChildFailed, match=f"^{expected}$"):
        ask(function, *arguments)


@pytest.mark.parametrize("function", [lambda: time.sleep(LONG_SECONDS), sleep_through_signals])
def test_deadline(pids: list[int], function: Callable[[], None]) -> None:
    started = time.monotonic()
    with pytest.raises(Unresponsive, match=r"no answer from the GPUs in 0\.2 s"):
        call(function, deadline_seconds=SHORT_SECONDS)
    assert SHORT_SECONDS <= time.monotonic() - started < LONG_SECONDS / 2
    (pid,) = pids
    assert process.wait_gone([pid], LONG_SECONDS / 2) == []
    # It is reaped when there is something else to do.
    ask(int)
    assert process.stat(pid) is None


@pytest.mark.usefixtures("unkillable")
def test_child_that_cannot_be_killed(pids: list[int]) -> None:
    started = time.monotonic()
    with pytest.raises(Unresponsive):
        call(time.sleep, LONG_SECONDS, deadline_seconds=SHORT_SECONDS)
    assert time.monotonic() - started < LONG_SECONDS / 2
    assert process.living(pids[0])


def test_no_child_is_added_to_stuck_ones(monkeypatch: pytest.MonkeyPatch, pids: list[int]) -> None:
    monkeypatch.setattr(child, "stuck", lambda: [4242, 4343])
    with pytest.raises(Unresponsive, match=r"an earlier look .* was killed, and hangs on in process 4242, 4343"):
        ask(int)
    assert pids == []


def test_child_that_was_just_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take a moment to die."""
    found = [[4242], [4242], []]
    monkeypatch.setattr(child, "stuck", lambda: found.pop(0))
    assert ask(int) == 0
    assert found == []


def write_process(
    proc: Path, pid: int, *, name: str = "", output: str = "/dev/null", state: str = "D", pending: int = 0
) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/1").symlink_to(output)
    (folder / "comm").write_text(f"{name or child.NAME}\n")
    status = {"Groups": " ", "State": f"{state} (disk sleep)", "SigPnd": f"{0:016x}", "ShdPnd": f"{pending:016x}"}
    (folder / "status").write_text("".join(f"{field}:\t{value}\n" for field, value in status.items()))


SIGKILL_PENDING = 1 << 8


def test_stuck(tmp_path: Path) -> None:
    ours = f"/dev/shm/{child.NAME}.x7 (deleted)"
    write_process(tmp_path, 1, name="systemd", pending=SIGKILL_PENDING)
    write_process(tmp_path, 11, pending=SIGKILL_PENDING)
    write_process(tmp_path, 12, state="R", pending=SIGKILL_PENDING | 1)
    write_process(tmp_path, 13, name="nvidia-smi", output=ours, pending=SIGKILL_PENDING)
    # Those look, or have just ended.
    write_process(tmp_path, 21)
    write_process(tmp_path, 22, pending=1)
    write_process(tmp_path, 23, state="Z", pending=SIGKILL_PENDING)
    write_process(tmp_path, 24, name="nvidia-smi", output=ours)
    write_process(tmp_path, 25, name="nvidia-smi", pending=SIGKILL_PENDING)
    (tmp_path / "26").mkdir()
    (tmp_path / "26/comm").write_text(child.NAME)
    assert sorted(child.stuck(str(tmp_path))) == [11, 12, 13]


def test_children_that_look_are_not_stuck() -> None:
    looking = Child(child.output, "sleep", str(LONG_SECONDS))
    until(lambda: process.stat(looking.pid).name == child.NAME)
    assert child.stuck() == []
    assert ask(int) == 0
    looking.abandon()
    until(lambda: not process.living(looking.pid))
    until(lambda: child.stuck() == [])
    assert process.stat(looking.pid), "nobody has reaped it"


def test_program_ends_with_its_child() -> None:
    looking = Child(child.output, "sleep", str(LONG_SECONDS))
    until(lambda: programs_of(looking.pid))
    (program,) = programs_of(looking.pid)
    assert os.readlink(f"/proc/{program}/fd/1").startswith(f"/dev/shm/{child.NAME}.")
    looking.abandon()
    assert process.wait_gone([looking.pid, program], LONG_SECONDS / 2) == []


def programs_of(pid: int) -> list[int]:
    """Processes of the session that a child leads, without itself."""
    return [seen.pid for seen in process.processes() if seen.pid != pid and session(seen.pid) == pid]


def session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo GPU 0; echo trouble >&2", [0, "GPU 0\n"]),
        ("echo GPU 0; exit 15", [15, "GPU 0\n"]),
        ("kill -9 $$", [-9, ""]),
        ("head -c 200000 /dev/zero | tr '\\0' x", [0, "x" * 200_000]),
        ("printf '\\377'", [0, "\N{REPLACEMENT CHARACTER}"]),
    ],
)
def test_output(command: str, expected: list[object]) -> None:
    assert ask(child.output, "sh", "-c", command) == expected


def test_output_of_nothing() -> None:
    with pytest.raises(ChildFailed, match="FileNotFoundError: no-such-program is not installed"):
        ask(child.output, "no-such-program")


def test_traits() -> None:
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        found = ask(traits)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found["name"] == child.NAME
    assert found["leads_session"]
    assert found["handler"] == str(signal.SIG_DFL)
    assert found["streams"] == [os.devnull] * 3
    assert found["files"] == 5, "three streams, the answer, and the listing itself"


def test_sockets_stay_with_the_parent() -> None:
    """A child that hangs for ever does not keep the agent's port taken, nor a client of it waiting."""
    here, there = socket.socketpair()
    looking = Child(time.sleep, LONG_SECONDS)
    here.close()
    there.settimeout(LONG_SECONDS / 2)
    assert there.recv(1) == b""
    there.close()
    looking.abandon()


def test_child_that_has_ended_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    looking = Child(int)
    until(looking.poll)
    monkeypatch.setattr(os, "kill", lambda *_arguments: pytest.fail("its pid may be another's by now"))
    looking.abandon()
    assert looking.result() == 0


def test_child_that_somebody_else_reaped() -> None:
    looking = Child(int, "7")
    os.waitpid(looking.pid, 0)
    assert looking.poll()
    assert looking.result() == 7


def test_no_child_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> NoReturn:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(ChildFailed, match="no child could be started: Resource temporarily unavailable"):
        ask(int)
