# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisord that keeps instances, asked by XML-RPC over the socket that it opens to root alone."""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from typing import Any

from .unix_http import Connection

SOCKET = "/run/vllm-supervisor.sock"
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.1
RESPAWN_SECONDS = 5.0
"""A program that has just ended cannot be stopped before supervisord has started it again, within a second or two."""

ON = ("STARTING", "RUNNING", "BACKOFF")
OFF = ("STOPPED", "FATAL", "UNKNOWN")

BAD_NAME = 10
ALREADY_STARTED = 60
NOT_RUNNING = 70
ALREADY_ADDED = 90


class Refused(Exception):
    """supervisord does not answer, or does not do it; the message says why."""


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_seconds = timeout_seconds

    def make_connection(self, _host: Any) -> http.client.HTTPConnection:
        # Never kept: supervisord closes idle connections, and a request is not sent twice.
        return Connection(self._path, self._timeout_seconds)


class Supervisord:
    """Every call blocks for as long as supervisord takes to answer."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path

    def states(self) -> dict[str, dict[str, Any]]:
        """What it says of each of its programs, by their names."""
        return {info["name"]: info for info in self._call("getAllProcessInfo")}

    def state(self, program: str) -> str:
        """One of supervisord's own words, empty where it does not have the program."""
        return str(self.states().get(program, {}).get("statename", ""))

    def add(self, program: str) -> None:
        """Take a program in from the configuration files, and start it; nothing where it is there already."""
        self._call("reloadConfig")
        self._call("addProcessGroup", program, ignored=ALREADY_ADDED)

    def start(self, program: str) -> None:
        """Have it begin to start."""
        self._call("startProcess", program, False, ignored=ALREADY_STARTED)

    def signal(self, program: str, name: str) -> None:
        """Send a signal to the program's own process and to no other."""
        self._call("signalProcess", program, name, ignored=NOT_RUNNING)

    def stop(self, program: str) -> None:
        """Have it begin to stop, to stay stopped."""
        deadline = time.monotonic() + RESPAWN_SECONDS
        while True:
            self._call("stopProcess", program, False, ignored=NOT_RUNNING)
            state = self.state(program)
            if state in ("STOPPING", *OFF, ""):
                return
            if time.monotonic() > deadline:
                raise Refused(f"supervisord does not stop {program}: it is {state}")
            time.sleep(POLL_SECONDS)

    def wait_stopped(self, program: str, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self.state(program) not in (*OFF, ""):
            if time.monotonic() > deadline:
                raise Refused(f"{program} has not stopped within {timeout_seconds:g} s")
            time.sleep(POLL_SECONDS)

    def remove(self, program: str) -> None:
        """Forget a program that is stopped."""
        self._call("removeProcessGroup", program, ignored=BAD_NAME)

    def _call(self, method: str, *arguments: Any, ignored: int = 0) -> Any:
        server = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(self._path, ANSWER_SECONDS))
        try:
            return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ignored:
                return None
            raise Refused(
                f"supervisord refuses {method} {' '.join(map(str, arguments))}: {fault.faultString}"
            ) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Refused(f"supervisord does not answer on {self._path}: {error}") from error
