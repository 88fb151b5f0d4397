# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm-instance tend NAME`: sees one server through from before its start until nothing of it is left.

What systemd does by itself for a unit, for the runtimes that do not: the check as root before the start, the service
user and limits, SIGTERM to the API server alone and SIGKILL to the rest after a deadline, the count of restarts.
It ends with its server, and whoever keeps it starts it again.

SIGTERM, SIGINT and SIGHUP stop the server as an operator does; SIGUSR1 as well, to be started again.
"""

from __future__ import annotations

import contextlib
import grp
import math
import os
import pwd
import resource
import signal
import sys
import time

from . import files, launch, process
from . import instance as instances
from .instance import Instance
from .runtime import RESTART_SIGNAL

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, RESTART_SIGNAL)
SIGNALS = (*STOPS, signal.SIGCHLD)
CLEAR_SECONDS = 10.0
POLL_SECONDS = 0.1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Tender:
    """The parent of one server."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._main = 0
        self._status = 0
        self._deadline = math.inf

    def run(self) -> int:
        """Its exit status: that of the server."""
        # Taken one by one with sigtimedwait, so that none comes in between.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        # What its processes leave behind is adopted here, and nowhere else.
        process.control(process.PR_SET_CHILD_SUBREAPER, 1)
        # Whoever keeps it and is gone would start a second one.
        process.control(process.PR_SET_PDEATHSIG, signal.SIGTERM)
        self._prepare()
        restarts = self._restarts()
        if self._asked_to_stop_within(self._instance.restart_seconds if restarts else 0) or not self._allowed():
            return 0
        files.replace(self._instance.restarts_path, str(restarts), 0o644)
        self._main = self._start()
        self._await_end()
        self._clear()
        return self._status

    def _prepare(self) -> None:
        instances.make_directories(self._instance)

    def _become_service(self) -> None:
        become_service(self._instance)
        # The server goes with its parent, and the rest of it before the next start at the latest.
        process.control(process.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _waits_no_longer(self) -> bool:
        """Whether a start that is refused is not to be tried again."""
        return False

    def _restarts(self) -> int:
        """How often it was started again by itself; a stop by somebody begins the count anew."""
        by_itself = os.path.exists(self._instance.restarts_path) and not os.path.exists(self._instance.stopping_path)
        return instances.restarts(self._instance.name, self._instance.run_dir) + 1 if by_itself else 0

    def _allowed(self) -> bool:
        """Wait until the server can start; False where a stop came first, or the end of patience."""
        told = ""
        while not self._asked_to_stop_within(0):
            try:
                launch.check(self._instance)
                return True
            except (launch.CannotStart, OSError, ValueError) as error:
                if told != str(error):
                    told = str(error)
                    say(f"{self._instance.name}: {told}")
            if self._asked_to_stop_within(launch.REFUSAL_SECONDS) or self._waits_no_longer():
                break
        return False

    def _asked_to_stop_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            received = signal.sigtimedwait(SIGNALS, max(0.0, deadline - time.monotonic()))
            if received is None:
                return False
            if received.si_signo in STOPS:
                self._note_stop()
                return True
            self._reap()

    def _start(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            self._become_service()
            if os.getppid() == parent:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                launch.run(self._instance)
        except (OSError, KeyError, ValueError) as error:
            say(f"{self._instance.name}: {error}")
        finally:
            os._exit(1)

    def _await_end(self) -> None:
        while not self._reap():
            received = signal.sigtimedwait(SIGNALS, max(0.0, min(self._deadline - time.monotonic(), 3600.0)))
            if received is not None and received.si_signo in STOPS:
                self._note_stop()
                self._deadline = min(self._deadline, time.monotonic() + self._instance.stop_timeout_seconds)
                os.kill(self._main, signal.SIGTERM)
            if time.monotonic() >= self._deadline:
                say(f"{self._instance.name}: not stopped within {self._instance.stop_timeout_seconds} s, killed")
                self._deadline = math.inf
                self._kill_all()

    def _note_stop(self) -> None:
        """A server that drains says that it is healthy, and refuses new requests."""
        with contextlib.suppress(OSError):
            files.replace(self._instance.stopping_path, "", 0o644)

    def _reap(self) -> bool:
        """Take leave of children that have ended; whether the server is gone."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self._main:
                    self._status = exit_status(status)
                    self._main = 0
        return not self._main

    def _kill_all(self) -> list[int]:
        """Kill what is left; those that were."""
        left = [pid for pid in process.Tree().under(os.getpid())[1:] if process.living(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _clear(self) -> None:
        deadline = time.monotonic() + CLEAR_SECONDS
        while True:
            self._reap()
            left = self._kill_all()
            if not left:
                return
            if time.monotonic() > deadline:
                say(f"{self._instance.name}: process {left[0]} does not die and may hold GPU memory: reboot the node")
                return
            time.sleep(POLL_SECONDS)


def become_service(instance: Instance) -> None:
    """Give up root for the service user, in a place and an environment of its own."""
    user = pwd.getpwnam(instance.user)
    limit(resource.RLIMIT_NOFILE, instance.open_files_max)
    limit(resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY)
    if os.geteuid() == 0:
        os.setgroups([entry.gr_gid for entry in grp.getgrall() if user.pw_name in entry.gr_mem] + [user.pw_gid])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    process.control(process.PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)
    os.chdir(instance.working_dir)
    names = {"USER": user.pw_name, "LOGNAME": user.pw_name, "HOME": user.pw_dir, "SHELL": user.pw_shell}
    os.environ.clear()
    os.environ.update(names, PATH=PATH, LANG="C.UTF-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def limit(kind: int, wanted: int) -> None:
    """Set a limit of the process, or as much of it as may be had: a container may not raise its own."""
    try:
        resource.setrlimit(kind, (wanted, wanted))
    except (OSError, ValueError):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


def exit_status(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"vllm-instance: {text}\n")
        sys.stderr.flush()
