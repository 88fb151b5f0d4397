# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives a node in a container GPUs that it has not: the fake NVML library for its tools, one for an instance."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

from . import fake

SCENARIO = "/run/fake-gpus.ini"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
PYNVML = "/usr/lib/python3/dist-packages/pynvml.py"
UNITS = ("vllm-node-agent.service", "vllm@.service")
"""Who looks at GPUs: the agent, and the launcher before each start."""
# Runs on the node: give the instance these GPUs, or what it had.
GIVE = """
import json, os, sys
path, gpus = sys.argv[1], json.loads(sys.argv[2])
description = json.load(open(path))
description["gpus"] = gpus
with open(path + ".new", "w") as stream:
    stream.write(json.dumps(description, indent=2, sort_keys=True) + chr(10))
os.chmod(path + ".new", 0o644)
os.replace(path + ".new", path)
"""


class Gpus:
    """The GPUs of a node, which do as they are told."""

    def __init__(self, container: str, scenario: Path) -> None:
        self._container = container
        self._scenario = scenario
        self._told: dict[str, str] = {}

    def tell(self, **values: str) -> None:
        """Change what the first GPU says; see fake_nvml.c for the keys."""
        self._told |= values
        fake.edit(self._scenario, "gpu0", **values)
        self._copy()

    def heal(self) -> None:
        """Take back all that was told."""
        fake.edit(self._scenario, "gpu0", **dict.fromkeys(self._told))
        self._told.clear()
        self._copy()

    def _copy(self) -> None:
        # Read at each look: the new one takes the old one's place in one step.
        write(self._scenario.read_bytes(), self._container, f"{SCENARIO}.new")
        execute(self._container, "sh", "-c", f"chmod 644 {SCENARIO}.new && mv {SCENARIO}.new {SCENARIO}")


@contextmanager
def installed(container: str, instance: str) -> Iterator[Gpus]:
    """As long as the block lasts the node has two GPUs, and the instance the first of them."""
    description = f"/etc/vllm/instances/{instance}.json"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = fake.build(folder / "fake") / "lib" / "libnvidia-ml.so.1"
        gpus = Gpus(container, fake.scenario("healthy_2", folder))
        try:
            gpus.heal()
            write(library.read_bytes(), container, LIBRARY)
            write(Path(pynvml.__file__).read_bytes(), container, PYNVML)
            for unit in UNITS:
                write(f"[Service]\nEnvironment=FAKE_NVML={SCENARIO}\n".encode(), container, dropin(unit))
            execute(container, "python3", "-c", GIVE, description, "[0]")
            restart_agent(container)
            yield gpus
        finally:
            execute(container, "python3", "-c", GIVE, description, "[]")
            execute(container, "rm", "-rf", SCENARIO, LIBRARY, PYNVML, *map(dropin, UNITS))
            restart_agent(container)


def restart_agent(container: str) -> None:
    execute(container, "systemctl", "daemon-reload")
    execute(container, "systemctl", "restart", "vllm-node-agent")


def dropin(unit: str) -> str:
    return f"/run/systemd/system/{unit}.d/fake-gpus.conf"


def write(content: bytes, container: str, target: str) -> None:
    """Not by `docker cp`, which does not see the file systems that a node has mounted itself."""
    command = ["docker", "exec", "--interactive", container, "sh", "-c", 'mkdir -p "${0%/*}" && cat >"$0"', target]
    subprocess.run(command, input=content, check=True)


def execute(container: str, *command: str) -> None:
    subprocess.run(["docker", "exec", container, *command], check=True)
