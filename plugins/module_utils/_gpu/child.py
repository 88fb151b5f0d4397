# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A function in a child process that nobody waits for: where a driver hangs, not even SIGKILL ends who asked it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any, NoReturn

from .._serving import process

NAME = "vllm-gpu-look"
"""Children are called so, and the files that they and their programs write."""
FOLDER = "/dev/shm"
"""In memory: a full disk shall not blind us."""
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Of programs that the PATH of a user or of cron leaves out."""
POLL_SECONDS = 0.002
NOT_STARTED = 126
"""Exit code of a program that the kernel did not take."""
DEATH_SECONDS = 0.5
"""Within which SIGKILL ends any process that does not hang."""
STATUS = re.compile(r"^(State|SigPnd|ShdPnd):\s+(\w+)", re.MULTILINE)


class Unresponsive(Exception):
    """No answer in time."""


class ChildFailed(Exception):
    """It ended without an answer."""


class Child:
    """A forked process that calls a function and answers by what that returns, which JSON must be able to hold."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        _reap()
        self._status: int | None = None
        try:
            # Not a pipe: who reads from one waits until all who can write to it have gone.
            self._file = _unnamed_file()
            self.pid = os.fork()
        except OSError as error:
            raise ChildFailed(f"no child could be started: {error}") from error
        if not self.pid:
            _run(self._file, function, arguments)

    def poll(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._status = 0  # reaped by somebody else: its answer has to tell
            else:
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def result(self) -> Any:
        """What the function returned, once the child has ended."""
        with self._file:
            text = _content(self._file)
        if self._status:
            raise ChildFailed(f"the child {ending(self._status)}")
        try:
            answer = json.loads(text)
        except ValueError:
            raise ChildFailed("the child ended without an answer") from None
        if "error" in answer:
            raise ChildFailed(answer["error"])
        return answer["value"]

    def abandon(self) -> None:
        """Kill it, unless it has ended, and wait for nothing."""
        if self.poll():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.killpg(self.pid, signal.SIGKILL)  # what it has started
        self._file.close()
        _abandoned.append(self)


_abandoned: list[Child] = []
"""Killed, and not yet known to have ended."""


def call(function: Callable[..., Any], *arguments: Any, deadline_seconds: float) -> Any:
    """What the function returns in a child."""
    deadline = time.monotonic() + deadline_seconds
    _refuse_beside_stuck(min(deadline, time.monotonic() + DEATH_SECONDS))
    child = Child(function, *arguments)
    try:
        while not child.poll():
            if time.monotonic() >= deadline:
                raise Unresponsive(f"no answer from the GPUs in {deadline_seconds:g} s")
            time.sleep(POLL_SECONDS)
        return child.result()
    finally:
        child.abandon()


def stuck(proc: str = "/proc") -> list[int]:
    """Children of whatever program on this host, and programs that they run, which not even SIGKILL has ended."""
    return [seen.pid for seen in process.processes(proc) if _is_ours(seen, proc) and _is_killed(seen.pid, proc)]


def output(program: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output of a program, which is waited for: to be called in a child."""
    status, text, _errors = run(program, *arguments)
    return status, text


def run(program: str, *arguments: str) -> tuple[int, str, str]:
    """The same, and standard error."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    path = shutil.which(program, path=folders)
    if not path:
        raise FileNotFoundError(f"{program} is not installed")
    with _unnamed_file() as text, _unnamed_file() as errors:
        pid = os.fork()
        if not pid:
            _become(path, [program, *arguments], text.fileno(), errors.fileno())
        _pid, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), _decoded(text), _decoded(errors)


def _become(path: str, argv: list[str], out: int, errors: int) -> None:
    """Never returns into the program that has forked."""
    try:
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.execve(path, argv, os.environ)
    finally:
        os._exit(NOT_STARTED)


def ending(status: int) -> str:
    """How a process ended, by its exit code, which is negative for a signal."""
    return f"was killed: {signal.strsignal(-status)}" if status < 0 else f"ended with exit code {status}"


def _refuse_beside_stuck(until: float) -> None:
    """Rather than add a child to those that hang already, unless they are gone by then: a killed one takes a moment."""
    while True:
        earlier = stuck()
        if not earlier:
            return
        if time.monotonic() >= until:
            pids = ", ".join(str(pid) for pid in earlier)
            raise Unresponsive(f"an earlier look at the GPUs was killed, and hangs on in process {pids}")
        time.sleep(POLL_SECONDS)


def _is_ours(seen: process.Process, proc: str) -> bool:
    if seen.name == NAME:
        return True
    try:
        # A program that a child runs has a name of its own, and writes to a file of ours.
        return os.readlink(f"{proc}/{seen.pid}/fd/1").startswith(f"{FOLDER}/{NAME}.")
    except OSError:
        return False  # gone, or not ours to see


def _is_killed(pid: int, proc: str) -> bool:
    """Whether SIGKILL was sent, and waits for the process to leave the kernel."""
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="replace") as stream:
            fields = dict(STATUS.findall(stream.read()))
    except OSError:
        return False
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    return fields.get("State") not in ("Z", "X") and bool(pending >> (signal.SIGKILL - 1) & 1)


def _unnamed_file() -> IO[bytes]:
    descriptor, path = tempfile.mkstemp(prefix=f"{NAME}.", dir=FOLDER)
    os.unlink(path)
    return os.fdopen(descriptor, "w+b")


def _content(file: IO[bytes]) -> bytes:
    # From the start, wherever those who share the file have left its position.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


def _decoded(file: IO[bytes]) -> str:
    return _content(file).decode(errors="replace")


def _reap() -> None:
    _abandoned[:] = [child for child in _abandoned if not child.poll()]


def _run(file: IO[bytes], function: Callable[..., Any], arguments: tuple[Any, ...]) -> NoReturn:
    """What the child does; it never returns into the program of its parent."""
    status = 1
    try:
        _leave_parent(file.fileno())
        file.write(_evaluate(function, arguments))
        file.flush()
        status = 0
    finally:
        os._exit(status)


def _evaluate(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    try:
        return json.dumps({"value": function(*arguments)}).encode()
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()


def _leave_parent(kept: int) -> None:
    """Share nothing with the parent but the answer: a child that hangs would keep its sockets open."""
    os.setsid()
    gc.freeze()  # what the parent has dropped is not the child's to close
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for descriptor in [int(entry) for entry in os.listdir("/proc/self/fd")]:
        if descriptor not in (0, 1, 2, kept):
            with contextlib.suppress(OSError):  # the one that the listing was read by
                os.close(descriptor)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as stream:
        stream.write(NAME)
