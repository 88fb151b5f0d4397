# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three simulated nodes behind a load balancer. Clients ask all the while: no roll may fail one of their requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import testinfra

from bench._client import Client, Kind

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
NODES = ("debian12", "debian12b", "debian13")
KINDS = (
    Kind("short", 2, pause_seconds=0.1),
    Kind("long", 60, pause_seconds=0.2),
    Kind("stream", 60, streamed=True, pause_seconds=0.2),
)
PATIENCE_SECONDS = 120
RUN_SECONDS = 600


class Roll:
    """A run of one of the collection's playbooks."""

    def __init__(self, verb: str, **variables: object) -> None:
        inventories = (SCENARIO.parent / "shared/inventory", SCENARIO / "inventory")
        self._process = subprocess.Popen(
            [
                "ansible-playbook",
                *(f"--inventory={folder}/" for folder in inventories),
                f"{PROJECT}/playbooks/{verb}.yml",
                f"--extra-vars={json.dumps(variables)}",
                # Environment and agent do not change here.
                *(["--tags=vllm_service"] if verb == "upgrade" else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.text += line

    def wait(self) -> Roll:
        self._process.wait(RUN_SECONDS)
        self._reader.join()
        return self

    def kill(self) -> None:
        """As kill -9 of all of it, with what it has forked."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    @property
    def failed(self) -> bool:
        return self._process.returncode != 0

    @property
    def sentence(self) -> str:
        found = re.search(r"The roll ended at [^\n]*", self.text)
        return found[0] if found else ""


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def run(verb: str, **variables: object) -> Roll:
    return Roll(verb, **variables).wait()


class Node:
    def __init__(self, name: str) -> None:
        self.name = name
        self.host = testinfra.get_host(f"docker://inferops-roll-{name}")
        self.address = self.host.check_output("hostname -I").split()[0]

    @property
    def server(self) -> int:
        return int(self.host.check_output("systemctl show --property MainPID --value vllm@tiny"))

    @property
    def environment(self) -> dict[str, str]:
        """Of the running server."""
        text = self.host.check_output(f"cat /proc/{self.server}/environ")
        return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)

    @property
    def drained(self) -> str:
        """Why, empty where it is not."""
        flag = self.host.file("/var/lib/vllm/drain/tiny")
        return json.loads(flag.content_string)["reason"] if flag.exists else ""

    @property
    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(self.address, 9410, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/ready/tiny")
                return connection.getresponse().status == 200
        return False


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    return [Node(name) for name in NODES]


@pytest.fixture(scope="module")
def endpoint() -> str:
    host = testinfra.get_host("docker://inferops-roll-lb1")
    return f"http://{host.check_output('hostname -I').split()[0]}:8000"


@pytest.fixture(autouse=True)
def whole(nodes):
    """Each test begins and ends with a fleet that serves."""
    until(lambda: all(node.is_ready for node in nodes), "all nodes to be ready")
    yield
    until(lambda: all(node.is_ready for node in nodes), "all nodes to be ready")


@pytest.fixture
def clients(endpoint):
    """Clients that are asking; what was wrong with any answer fails the test."""
    client = Client(endpoint, "tiny", KINDS)
    with client:
        yield client
    assert len(client.requests) > 20
    assert [request for request in client.requests if request.fault] == []


def servers(nodes: list[Node]) -> list[int]:
    return [node.server for node in nodes]


@pytest.mark.usefixtures("clients")
def test_restart_of_all(nodes):
    before = servers(nodes)
    roll = run("rolling_restart")
    assert not roll.failed, roll.text
    assert all(old != new for old, new in zip(before, servers(nodes)))
    assert not any(node.drained for node in nodes)


@pytest.mark.usefixtures("clients")
def test_bad_upgrade_goes_back(nodes):
    first, *others = nodes
    before = servers(others)
    roll = run("upgrade", change={"SIM_STARTUP_FAILURE_SECONDS": "0.5"})
    assert roll.failed
    assert "instance tiny does not serve" in roll.text
    assert "debian12 is back on the configuration that served before, and in service" in roll.sentence
    assert "Not touched: debian12b, debian13." in roll.sentence
    assert servers(others) == before
    assert "SIM_STARTUP_FAILURE_SECONDS" not in first.environment


@pytest.mark.usefixtures("clients")
def test_one_roll_at_a_time_and_one_that_was_killed_goes_on(nodes):
    """What a bad upgrade has put aside on the others is not what they are restarted with."""
    first, *others = nodes
    before = servers(nodes)
    roll = Roll("rolling_restart")
    until(lambda: first.drained, "the first drain")
    second = run("rolling_restart")
    assert second.failed
    assert "is under way, last heard of" in second.text
    roll.kill()
    assert servers(others) == before[1:]
    roll = run("rolling_restart")
    assert not roll.failed, roll.text
    assert all(old != new for old, new in zip(before, servers(nodes)))
    assert not any(node.drained for node in nodes)
