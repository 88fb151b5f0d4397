# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for a node: instances' files in a folder, simulated servers, a runtime that says what it is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance
from ansible_collections.inferops.vllm.plugins.module_utils._serving.process import MARK, belongs_to
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Unit

SIMULATOR = Path(__file__).parent / "simulator" / "vllm_simulator.py"


def control_group(pid: int) -> list[int]:
    """Processes of the same session: the server's own, where all share the control group of the tests."""
    session = _session(pid)
    return [found.pid for found in process.processes() if _session(found.pid) == session] if session else [pid]


def _session(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0


class Runtime:
    """In place of systemd."""

    def __init__(self, unit: Unit | None = None) -> None:
        self.unit = unit
        """None: it does not answer."""
        self.asked = 0
        self.written = ""

    async def units(self, names: Collection[str]) -> dict[str, Unit]:
        self.asked += 1
        if self.unit is None:
            raise CommandFailed("systemctl: no")
        return dict.fromkeys(names, self.unit)

    def processes(self, main: int) -> list[int]:
        return control_group(main)

    async def log(self, _name: str, _lines: int) -> str:
        return self.written


class Server:
    """An instance with its files, and a simulated server once it is started."""

    def __init__(self, folder: Path, name: str = "", model: str = "m") -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.instance = Instance(
            name=name or f"tiny-{port}",
            port=port,
            served_model_name=model,
            user="vllm",
            root="/o",
            environment={"HF_TOKEN": "geheim"},
            config_dir=str(folder),
            run_dir=str(folder / "run"),
        )
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "run").mkdir(exist_ok=True)
        Path(self.instance.config_path).write_text(f'port: {port}\nserved-model-name: ["{model}"]\n')
        Path(self.instance.description_path).write_text(self.instance.dump())

    @property
    def record(self) -> Path:
        return Path(self.instance.record_path)

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self, model: str = "m", **script: str) -> Server:
        command = [sys.executable, str(SIMULATOR), "--model", model, "--host", "127.0.0.1"]
        environment = {"SIM_LOAD_SECONDS": "0", "SIM_TOKEN_SECONDS": "0.01", **script, MARK: self.instance.name}
        self.process = subprocess.Popen(
            [*command, "--port", str(self.instance.port), "--enable-server-load-tracking"],
            env={**os.environ, **environment},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # The kernel shows the environment a moment after the program has become another, a long one where it is busy.
        while self.process.poll() is None and not belongs_to(self.process.pid, self.instance.name):
            time.sleep(0.01)
        self.record.write_text(json.dumps({"pid": self.process.pid}))
        return self

    def end(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def await_load(self) -> None:
        """Until it listens."""
        while self.process and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.instance.port)):
                return
            time.sleep(0.05)

    def tell(self, **orders: Any) -> dict[str, Any]:
        """Have the simulator do something."""
        return json.loads(self.post("/simulator", orders))

    def post(self, path: str, body: Any) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.instance.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return connection.getresponse().read()
