# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm-instance tend` with real processes: a server of two processes, of which one ignores SIGTERM where it shall."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from ansible_collections.inferops.vllm.plugins.module_utils._serving.instance import Instance

SERVER = """#!{python}
import os, signal, socket, sys, time
sys.stdout.write(os.environ["HOME"] + " " + os.environ.get("SECRET", "clean") + "\\n")
sys.stdout.flush()
if os.environ["MANNER"] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
# Who sees the engine knows that the server is as it is to be.
engine = os.fork()
if not engine:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("/proc/self/comm", "w").write("VLLM::EngineCor")
    time.sleep(600)
if os.environ["MANNER"] == "exits":
    sys.exit(3)
time.sleep(600)
"""
TEND = (
    "import sys; from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance, tend;"
    " sys.exit(tend.Tender(instance.load(sys.argv[2], sys.argv[1])).run())"
)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Place:
    """A folder with an instance, and its launcher once it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Processes are found by it on the whole host, beside those of other tests and of containers.
        self.name = f"tiny-{uuid.uuid4().hex[:12]}"
        self.port = 1
        self.tender: subprocess.Popen[str] | None = None
        venv = folder / "current"
        (venv / "bin").mkdir(parents=True)
        (venv / ".inferops.json").write_text('{"variant": "cuda"}')
        (venv / "bin/vllm").write_text(SERVER.format(python=sys.executable))
        (venv / "bin/vllm").chmod(0o755)
        self.instance = Instance(self.name, 1, "tiny", pwd.getpwuid(os.getuid()).pw_name, str(folder))

    def start(self, manner: str = "serves", **changes: object) -> None:
        fields = {
            "name": self.name,
            "port": self.port,
            "served_model_name": "tiny",
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "root": str(self.folder),
            "runtime": "supervisor",
            "environment": {"MANNER": manner},
            "working_dir": str(self.folder / "work"),
            "stop_timeout_seconds": 20,
            "config_dir": str(self.folder),
            "run_dir": str(self.folder / "run"),
            **changes,
        }
        self.instance = Instance(**fields)
        (self.folder / f"{self.name}.json").write_text(self.instance.dump())
        (self.folder / f"{self.name}.yaml").write_text("port: 1\n")
        self.tender = subprocess.Popen(
            [sys.executable, "-c", TEND, str(self.folder), self.name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SECRET": "geheim"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def await_server(self) -> int:
        wait_until(
            lambda: self.instance.recorded() and len(process.marked(self.name)) == 2 and process.leftovers(self.name)
        )
        return self.instance.recorded()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        assert self.tender
        self.tender.send_signal(number)
        return self.await_end()

    def await_end(self) -> tuple[int, str]:
        assert self.tender
        text = self.tender.communicate(timeout=30)[0]
        return self.tender.returncode, text

    @property
    def restarts(self) -> str:
        return Path(self.instance.restarts_path).read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for pid in process.marked(made.name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if made.tender:
        made.tender.kill()
        made.tender.communicate()


def test_stop_ends_the_server_in_peace_and_leaves_nothing(place: Place) -> None:
    place.start()
    main = place.await_server()
    assert json.loads(Path(place.instance.record_path).read_text())["pid"] == main
    status, text = place.end()
    assert (process.marked(place.name), status) == ([], 128 + signal.SIGTERM)
    assert text.startswith(f"{pwd.getpwuid(os.getuid()).pw_dir} clean\n")
    assert Path(place.instance.stopping_path).exists()


def test_server_that_does_not_stop_is_killed(place: Place) -> None:
    place.start("deaf", stop_timeout_seconds=1)
    place.await_server()
    status, text = place.end()
    assert (process.marked(place.name), status) == ([], 128 + signal.SIGKILL)
    assert f"{place.name}: not stopped within 1 s, killed" in text


def test_ends_with_its_server_and_takes_the_engine_along(place: Place) -> None:
    place.start("exits")
    status, _text = place.await_end()
    assert (status, process.marked(place.name)) == (3, [])
    assert not Path(place.instance.stopping_path).exists()


def test_counts_the_starts_that_nobody_asked_for(place: Place) -> None:
    counts = []
    for _start in range(3):
        place.start("exits")
        place.await_end()
        counts.append(place.restarts)
    place.start()
    place.await_server()
    counts.append(place.restarts)
    place.end()
    place.start()
    place.await_server()
    counts.append(place.restarts)
    assert counts == ["0", "1", "2", "3", "0"]


def test_restart_by_the_agent_is_no_restart_by_itself(place: Place) -> None:
    place.start()
    place.await_server()
    place.end(signal.SIGUSR1)
    place.start()
    place.await_server()
    assert place.restarts == "0"


def test_server_goes_with_a_killed_launcher_and_the_next_start_removes_the_rest(place: Place) -> None:
    place.start()
    main = place.await_server()
    (engine,) = (found.pid for found in process.leftovers(place.name))
    assert place.tender
    place.tender.kill()
    wait_until(lambda: not process.living(main))
    assert process.living(engine)
    place.start()
    wait_until(lambda: not process.living(engine))
    assert place.await_server() != main


def test_what_cannot_start_waits_and_says_so_once(place: Place) -> None:
    (place.folder / "current/.inferops.json").unlink()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, process.MARK: place.name}) as other:
        wait_until(lambda: process.belongs_to(other.pid, place.name))
        (place.folder / "run").mkdir()
        (place.folder / f"run/{place.name}.json").write_text(json.dumps({"pid": other.pid}))
        place.start()
        refusal = f"its server runs already (pid {other.pid}): stop that one first"
        wait_until(lambda: os.path.exists(place.instance.obstacle_path))
        assert Path(place.instance.obstacle_path).read_text() == refusal
        time.sleep(2.5)
        # Ended while it still waits: once the other has gone it would start its server.
        status, text = place.end()
        other.kill()
    assert (status, text.count(refusal)) == (0, 1)
