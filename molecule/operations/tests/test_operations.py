# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three simulated nodes behind a load balancer, and each verb of docs/OPERATIONS.md but the rolls, in this order.

A node has a second instance, `spare`. Each test leaves the fleet as it has found it, but for the last one's node.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
NODES = ("debian12", "debian12b", "debian13")
KEY = "molecule-key"
SECRETS = (KEY.encode(), b"molecule-password")
PATIENCE_SECONDS = 60
RUN_SECONDS = 300
LOOKED_AT = "/etc /opt /usr/local /var /run"
# What packages bring besides their own files, and package lists. Packages stay.
PACKAGED = re.compile(
    r"/etc/rc.\.d/|.*/(cron|logrotate)\.(service|timer)$|/run/(crond|systemd)|/var/(cache/apt|lib/(apt|dpkg|systemd))/"
)


class Done:
    """A run of one of the collection's playbooks that has ended."""

    def __init__(self, verb: str, *options: str, directory: Path = SCENARIO, **variables: object) -> None:
        inventories = (SCENARIO.parent / "shared/inventory", SCENARIO / "inventory")
        done = subprocess.run(
            [
                "ansible-playbook",
                *(f"--inventory={folder}/" for folder in inventories),
                f"{PROJECT}/playbooks/{verb}.yml",
                f"--extra-vars={json.dumps(variables)}",
                *options,
            ],
            cwd=directory,
            env={**os.environ, "PWD": str(directory)},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        self.text = done.stdout + done.stderr
        # Ansible breaks lines, and sets some in quotes.
        self.words = " ".join(self.text.replace("''", "'").split())
        self.failed = done.returncode != 0

    def changed(self, host: str) -> int:
        """Tasks that have changed something there, or would have."""
        found = re.search(rf"^{host} .*changed=(\d+)", self.text, re.MULTILINE)
        assert found, self.text
        return int(found[1])


class Node:
    def __init__(self, name: str) -> None:
        self.name = name
        self.host = testinfra.get_host(f"docker://inferops-operations-{name}")
        self.run = self.host.check_output
        self.address = self.run("hostname -I").split()[0]

    def server(self, instance: str = "tiny") -> int:
        return int(self.run(f"systemctl show --property MainPID --value vllm@{instance}"))

    def drained(self, instance: str = "tiny") -> str:
        """Why, empty where it is not."""
        flag = self.host.file(f"/var/lib/vllm/drain/{instance}")
        return json.loads(flag.content_string)["reason"] if flag.exists else ""

    def is_ready(self, instance: str = "tiny") -> bool:
        with contextlib.suppress(OSError):
            return ask(self.address, 9410, f"/ready/{instance}")[0] == 200
        return False

    def paths(self) -> set[str]:
        """All that a product might have put there."""
        return set(self.run(f"find {LOOKED_AT} -xdev").splitlines())

    def contents(self) -> str:
        """Checksums of what is configured and installed."""
        return self.run(
            "find /etc /opt /var/lib/vllm -xdev -type f -not -path '*/health/*' | sort | xargs -d '\\n' sha1sum"
        )


def ask(address: str, port: int, path: str, body: object = None, seconds: float = 60) -> tuple[int, str]:
    """Status and text of an answer; OSError where there is none."""
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with contextlib.closing(connection):
        try:
            connection.request(*(("GET", path) if body is None else ("POST", path, json.dumps(body))), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error


def complete(address: str, tokens: int = 2) -> int:
    """Status of a completion."""
    body = {"model": "tiny", "prompt": "a", "max_tokens": tokens, "ignore_eos": True}
    return ask(address, 8000, "/v1/completions", body)[0]


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    found = [Node(name) for name in NODES]
    until(lambda: all(node.is_ready() for node in found), "all nodes to be ready")
    return found


@pytest.fixture(scope="module")
def endpoint() -> str:
    """Address of the load balancer."""
    host = testinfra.get_host("docker://inferops-operations-lb1")
    return host.check_output("hostname -I").split()[0]


@contextlib.contextmanager
def asking(address: str) -> Iterator[list[int]]:
    """As long as the block lasts somebody asks for completions; their statuses."""
    over, statuses = threading.Event(), []

    def work() -> None:
        while not over.wait(0.1):
            statuses.append(complete(address))

    asker = threading.Thread(target=work)
    asker.start()
    try:
        yield statuses
    finally:
        over.set()
        asker.join()


@contextlib.contextmanager
def unwatched(nodes: list[Node]) -> Iterator[None]:
    """As long as the block lasts no agent heals what a person is to see to."""
    for node in nodes:
        node.run("systemctl stop cron vllm-node-agent")
    try:
        yield
    finally:
        for node in nodes:
            node.run("systemctl start cron vllm-node-agent")


@pytest.mark.usefixtures("nodes")
def test_status_of_a_fleet_that_is_well(tmp_path):
    done = Done("status", directory=tmp_path, vllm_status_file="vllm-status.json")
    assert not done.failed, done.text
    assert "All is well: 4 instances on 3 nodes." in done.text
    page = json.loads((tmp_path / "vllm-status.json").read_text())
    assert set(page) == {"ok", "problems", "nodes", "load_balancers"}
    assert (page["ok"], page["problems"], set(page["nodes"])) == (True, [], set(NODES))
    assert set(page["nodes"]["debian12"]["instances"]) == {"tiny", "spare"}
    seen = page["nodes"]["debian13"]["instances"]["tiny"]
    assert (seen["verdict"], seen["version"], seen["model"], seen["up"]) == ("ready", "0.33.0", "tiny", ["lb1"])
    assert KEY not in json.dumps(page)


def test_drain_leaves_enough_in_service(nodes):
    done = Done("drain", "--limit=debian12,debian13")
    assert done.failed
    assert "Nothing is drained: " in done.text
    assert "tiny would be left with 1 of 3 servers at lb1 (debian12b), and 50% of them, 2, must stay" in done.text
    assert "say -e vllm_drain_force=true" in done.text
    assert not any(node.drained() for node in nodes)


def test_drain_waits_for_what_is_in_flight(nodes):
    *_others, last = nodes
    answers: list[int] = []
    # Some 20 s of tokens.
    asker = threading.Thread(target=lambda: answers.append(complete(last.address, 1000)))
    asker.start()
    done = Done("drain", "--limit=debian13", vllm_drain_reason="memory")
    assert not done.failed, done.text
    assert answers == [200]
    asker.join()
    assert [node.drained() for node in nodes] == ["", "", "memory"]
    assert not last.is_ready()
    assert last.server()


def test_forced_drain_keeps_the_reason_of_a_person(nodes):
    choices = {"vllm_names": "tiny", "vllm_drain_wait": False, "vllm_drain_force": True}
    done = Done("drain", "--limit=debian12b,debian13", vllm_drain_reason="fans", **choices)
    assert not done.failed, done.text
    assert [node.drained() for node in nodes] == ["", "fans", "memory"]
    assert (done.changed("debian12b"), done.changed("debian13")) == (1, 0)


def test_status_names_what_is_not_well(nodes, tmp_path):
    nodes[0].run("systemctl stop vllm@spare")
    drift = {"SIM_LOAD_SECONDS": "2"}
    done = Done("status", directory=tmp_path, vllm_status_file="vllm-status.json", spare_env=drift)
    nodes[0].run("systemctl start vllm@spare")
    assert done.failed
    sentence = re.search(r"not all is well: .*", done.text)
    assert sentence, done.text
    page = json.loads((tmp_path / "vllm-status.json").read_text())
    spare = page["nodes"]["debian12"]["instances"]["spare"]
    assert spare["drift"] == ["its configuration on the node is older than the inventory"]
    assert len(spare["problems"]) == 2
    assert re.search(r"debian12b: tiny: drained since \S+: fans", sentence[0])
    assert re.search(r"debian13: tiny: drained since \S+: memory", sentence[0])
    assert all(f"debian12: spare: {problem}" in sentence[0] for problem in spare["problems"])
    assert page["nodes"]["debian12"]["instances"]["tiny"]["problems"] == []
    assert len(page["problems"]) == 4


def test_undrain_ends_when_requests_come(nodes):
    done = Done("undrain", "--limit=debian12b,debian13")
    assert not done.failed, done.text
    assert not any(node.drained() for node in nodes)
    assert all(node.is_ready() for node in nodes)


def test_recover_takes_the_least_that_helps(nodes):
    first, second, third = nodes
    until(lambda: first.is_ready("spare"), "spare to be ready")
    before = {node.name: node.server() for node in nodes}
    with unwatched(nodes):
        first.run("systemctl stop vllm@tiny")
        first.run(f"pkill -KILL --parent {first.server('spare')}")
        second.run(f"pkill -STOP --parent {second.server()}")
        third.run("systemctl stop vllm@tiny")
        third.run("systemd-run --quiet --unit leftover --setenv INFEROPS_VLLM_INSTANCE=tiny sleep 1000")
        steps = {
            "debian12": ("tiny: start, for it is stopped", "spare: restart, for it has failed"),
            "debian12b": ("tiny: kill, for it is hung",),
            "debian13": ("tiny: kill leftovers, for its servers have left sleep",),
        }
        told = Done("recover", "--check")
        assert not told.failed, told.text
        for node, wanted in zip(nodes, steps.values()):
            assert all(step in told.words for step in wanted), told.text
            assert told.changed(node.name) == 1
        assert (first.server(), second.server(), third.server()) == (0, before["debian12b"], 0)
        assert third.host.service("leftover").is_running
        done = Done("recover")
        assert not done.failed, done.text
        assert all(step in done.words for wanted in steps.values() for step in wanted), done.text
        assert not third.host.service("leftover").is_running
        assert all(node.server() not in (0, before[node.name]) for node in nodes)
        assert [complete(node.address) for node in nodes] == [200, 200, 200]
    until(lambda: all(node.is_ready() for node in nodes), "all nodes to be ready")
    until(lambda: first.is_ready("spare"), "spare to be ready")


def test_support_bundle_has_no_secret(nodes, tmp_path):
    done = Done("support_bundle", "--limit=debian12", directory=tmp_path, vllm_support_reason="a test")
    assert not done.failed, done.text
    (archive,) = (tmp_path / "vllm-support").iterdir()
    assert archive.name.startswith("debian12-vllm-support-")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    found = {path: path.read_bytes() for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    assert any(path.name == "manifest.json" for path in found)
    assert any(path.name == "tiny.yaml" for path in found)
    assert [path for path, data in found.items() for secret in SECRETS if secret in data] == []
    assert not nodes[0].run("find /var/tmp /tmp -name '*vllm-support*'")


def test_rollback_without_anything_earlier_is_refused(nodes):
    before = [node.server() for node in nodes]
    done = Done("rollback")
    assert done.failed
    assert all(f"{node.name}: " in done.words for node in nodes)
    assert "no earlier configuration has served there" in done.words
    assert [node.server() for node in nodes] == before
    assert not any(node.drained() for node in nodes)


def test_uninstall_wants_to_be_confirmed(nodes):
    before = nodes[2].contents()
    done = Done("uninstall", "--limit=debian13")
    assert done.failed
    assert "off debian13. Say -e vllm_uninstall_confirm=true" in done.text
    done = Done("uninstall", "--limit=debian13", vllm_uninstall_confirm=True, vllm_names=["tiny"])
    assert done.failed
    assert "Nothing is removed: vllm_names is set" in done.text
    assert nodes[2].contents() == before


def test_uninstall_in_check_mode_changes_nothing(nodes):
    *_others, last = nodes
    paths, contents, server = last.paths(), last.contents(), last.server()
    done = Done("uninstall", "--limit=debian13", "--check", "--diff")
    assert not done.failed, done.text
    assert done.changed("debian13") > 5
    assert all(
        path in done.text for path in ("/opt/vllm/venvs", "/etc/vllm/instances", "/etc/cron.d/vllm-health-check")
    )
    assert not {path for path in paths ^ last.paths() if re.search("vllm|cron", path)}
    assert (last.contents(), last.server()) == (contents, server)
    assert last.is_ready()


def test_uninstall_leaves_nothing(nodes, endpoint):
    *_others, last = nodes
    with asking(endpoint) as statuses:
        done = Done("uninstall", "--limit=debian13", vllm_uninstall_confirm=True)
    assert not done.failed, done.text
    assert len(statuses) > 20
    assert set(statuses) == {200}
    for listed in ("list-units --all", "list-unit-files"):
        assert not last.host.run(f"systemctl {listed} --plain --no-legend '*vllm*'").stdout
    assert last.host.run("pgrep -f '[v]llm'").rc == 1
    kept = last.run("find / /run -xdev -ipath '*vllm*' -not -path '/srv/*'").splitlines()
    assert {path.split("/vllm")[0] for path in kept} == {"/var/lib", "/var/log"}, kept
    assert last.host.file("/var/lib/vllm/models").listdir()
    assert last.host.user("vllm").exists
    before = set(last.host.file("/srv/before").content_string.splitlines())
    owned = set(last.run("cat /var/lib/dpkg/info/*.list").splitlines())
    left = {path for path in last.paths() - before - owned if not PACKAGED.match(path)}
    assert left == {path for path in left if re.match("/var/(lib|log)/vllm", path)}


def test_uninstall_takes_models_logs_and_user_if_asked(nodes):
    *_others, last = nodes
    choices = dict.fromkeys(("confirm", "models", "logs", "user"), True)
    variables = {f"vllm_uninstall_{choice}": wanted for choice, wanted in choices.items()}
    done = Done("uninstall", "--limit=debian13", **variables)
    assert not done.failed, done.text
    assert not last.run("find / /run -xdev -ipath '*vllm*' -not -path '/srv/*'")
    assert not last.host.user("vllm").exists
    done = Done("uninstall", "--limit=debian13", **variables)
    assert not done.failed, done.text
    assert done.changed("debian13") == 0
