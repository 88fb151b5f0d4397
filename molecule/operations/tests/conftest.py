"""The fleet of the scenario: its hosts, and the commands of docs/OPERATIONS.md on it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import testinfra

SCENARIO = Path(__file__).parent.parent
ROOT = SCENARIO.parent.parent
NODES = ("debian12", "debian13")
VERBS = ("status", "drain", "undrain", "recover", "support_bundle", "uninstall")
# Of the page, and what stands for it here.
STANDS_FOR = {"gpu3": "debian13", "qwen3vl": "chat"}
PATIENCE_SECONDS = 90
"""At least three times what anything here takes on a machine with nothing else to do."""


def page():
    """The commands of the page, each with all its words."""
    lines = (ROOT / "docs/OPERATIONS.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("ansible-playbook ")]
    return [line for line in commands if re.match(rf"ansible-playbook inferops\.vllm\.({'|'.join(VERBS)}) ", line)]


class Done:
    def __init__(self, process):
        self.rc = process.returncode
        self.output = process.stdout + process.stderr
        recap = re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", process.stdout, re.MULTILINE)
        self.changed = {host: int(count) for host, count in recap}

    @property
    def words(self):
        """The output in one line, however it was broken."""
        return " ".join(self.output.split())


class Fleet:
    nodes = NODES
    page = page()

    def __init__(self, folder):
        self.folder = folder
        self.hosts = {name: testinfra.get_host(f"docker://inferops-operations-{name}") for name in (*NODES, "lb1")}
        self.ran = set()

    def run(self, command, *more):
        """Run a command of the page, or one like it, in a folder of its own."""
        if command in self.page:
            self.ran.add(command)
        for word, here in STANDS_FOR.items():
            command = re.sub(rf"\b{word}\b", here, command)
        words = shlex.split(command)
        at = words.index("inventory")
        words[at - 1 : at + 1] = [
            f"--inventory={SCENARIO.parent}/shared/inventory/",
            f"--inventory={SCENARIO}/inventory/",
        ]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{ROOT}/.ansible/collections",
            "ANSIBLE_PIPELINING": "1",
            "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
            "MOLECULE_SCENARIO_NAME": "operations",
            "PWD": str(self.folder),
        }
        done = subprocess.run(
            [*words, *more], env=environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        return Done(done)

    def on(self, name, command):
        return self.hosts[name].check_output(command)

    def agent(self, name, instance):
        """What a node's agent says of an instance."""
        text = self.on(
            name,
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9410/status\").read().decode())'",
        )
        return next(found for found in json.loads(text)["instances"] if found["instance"] == instance)

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory):
    return Fleet(tmp_path_factory.mktemp("operator"))
