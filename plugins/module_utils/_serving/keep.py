# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm-instance keep NAME`: in a terminal, starts the server again and again until somebody stops it.

What servers write goes to the terminal and to a log that is rotated.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

from . import instance as instances
from . import process
from .runtime import LOG_DIR, RESTART_SIGNAL
from .tend import Tender, say

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PAUSE_SECONDS = 1.0
"""Between two servers at the least: one that ends at once would be a storm."""
LOG_BYTES = 50 << 20
LOG_FILES = 10
CHUNK_BYTES = 1 << 16


class Log:
    """A file that is put aside when it is full; a disk without space keeps no server from its work."""

    def __init__(self, path: str, most_bytes: int = LOG_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
            try:
                os.write(descriptor, data)
                full = os.fstat(descriptor).st_size >= self._most_bytes
            finally:
                os.close(descriptor)
            if full:
                self._rotate()

    def _rotate(self) -> None:
        for number in range(LOG_FILES, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)


class Keeper:
    """The program of a terminal's session."""

    def __init__(self, name: str, config_dir: str = instances.CONFIG_DIR, log_dir: str = LOG_DIR) -> None:
        self._name = name
        self._config_dir = config_dir
        os.makedirs(log_dir, mode=0o750, exist_ok=True)
        self._log = Log(os.path.join(log_dir, f"{name}.log"))
        self._tender = 0
        self._stopped = False

    def run(self) -> None:
        # A session that is closed stops its server as an operator does.
        for number in STOPS:
            signal.signal(number, self._stop)
        signal.signal(RESTART_SIGNAL, self._restart)
        while not self._stopped:
            self._tend()
            deadline = time.monotonic() + PAUSE_SECONDS
            while not self._stopped and time.monotonic() < deadline:
                time.sleep(0.05)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True
        self._hand_on(signal.SIGTERM)

    def _restart(self, _number: int, _frame: object) -> None:
        self._hand_on(RESTART_SIGNAL)

    def _hand_on(self, number: signal.Signals) -> None:
        if self._tender:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._tender, number)

    def _tend(self) -> None:
        """One server, from start to end."""
        reader, writer = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [*STOPS, RESTART_SIGNAL])
        self._tender = os.fork()
        if not self._tender:
            self._become_tender(writer)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._pass_on(reader)
        os.close(reader)
        pid, self._tender = self._tender, 0
        os.waitpid(pid, 0)

    def _become_tender(self, writer: int) -> None:
        """Never returns."""
        try:
            # Ctrl-C at the terminal is for the keeper alone: workers that got it would drop their requests.
            os.setpgid(0, 0)
            for number in (*STOPS, RESTART_SIGNAL):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os._exit(Tender(instances.load(self._name, self._config_dir)).run())
        except (OSError, ValueError) as error:
            say(f"{self._name}: {error}")
        finally:
            os._exit(1)

    def _pass_on(self, reader: int) -> None:
        """What the server writes, until it has ended."""
        while True:
            if not select.select([reader], [], [], 0.5)[0]:
                if process.living(self._tender):
                    continue
                return
            data = os.read(reader, CHUNK_BYTES)
            if not data:
                return
            self._log.write(data)
            with contextlib.suppress(OSError):
                os.write(sys.stdout.fileno(), data)
