# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo fleet as a newcomer gets it: real vLLM on three nodes behind a load balancer. The tests run in order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ENDPOINT = "http://172.30.57.10:8000"
NODES = ("node1", "node2", "node3")


def run(*command: str | Path) -> str:
    """Run in the repository's root; the output, which is shown where it fails."""
    done = subprocess.run(
        command, cwd=REPO, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def playbook(*arguments: str) -> str:
    return run("ansible-playbook", "-i", "inventory", *arguments)


def changes(output: str) -> dict[str, int]:
    """Changed tasks of each host, by the last recap."""
    recap = output.rpartition("PLAY RECAP")[2]
    return {host: int(count) for host, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", recap, re.MULTILINE)}


def node(name: str, *command: str) -> str:
    return run("docker", "exec", f"inferops-demo-{name}", *command).strip()


def main_pid(name: str) -> str:
    return node(name, "systemctl", "show", "--property=MainPID", "--value", "vllm@tiny")


def engine_pids(name: str) -> set[str]:
    return set(re.findall(r"^ *(\d+) VLLM::", node(name, "ps", "-eo", "pid,comm"), re.MULTILINE))


def chat(base: str = ENDPOINT) -> str:
    body = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "Are you there?"}]}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def address(name: str) -> str:
    return f"http://172.30.57.1{name[-1]}:8000"


def serves(name: str) -> bool:
    try:
        return bool(chat(address(name)))
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(1)


@pytest.fixture(scope="module", autouse=True)
def bare_hosts() -> Iterator[None]:
    run("script/demo", "down", "--keep-images")
    run("script/image", "bookworm")
    run("python", "script/tiny-model", ".cache/demo/tiny-qwen3")
    playbook("molecule/shared/demo.yml")
    yield
    run("script/demo", "down", "--keep-images")


def test_check_mode_on_bare_hosts_says_what_would_be_done_and_does_nothing() -> None:
    output = playbook("site.yml", "--check", "--diff")
    for wanted in ("/opt/vllm/venvs/0.32.0", "vllm@.service", "max-model-len: 2048", "server node3 172.30.57.13:8000"):
        assert wanted in output
    assert set(changes(output)) == {*NODES, "lb1"}
    for name in NODES:
        assert node(name, "find", "/opt", "/etc/systemd/system", "/var/lib", "-name", "*vllm*") == ""


def test_demo_answers_a_chat_completion() -> None:
    output = run("script/demo")
    assert re.search(r'"object": ?"chat.completion"', output)
    for name in NODES:
        assert serves(name)


def test_second_run_changes_nothing() -> None:
    assert changes(run("script/demo")) == dict.fromkeys((*NODES, "lb1"), 0)
    assert changes(playbook("site.yml", "--check")) == dict.fromkeys((*NODES, "lb1"), 0)


@pytest.mark.parametrize("victim", ["API server", "engine"])
def test_killed_process_is_replaced(victim: str) -> None:
    server, engines = main_pid("node1"), engine_pids("node1")
    assert engines
    node("node1", "kill", "-9", server if victim == "API server" else min(engines, key=int))
    # The other nodes carry on meanwhile.
    assert chat()
    wait_until(lambda: main_pid("node1") not in ("0", server))
    wait_until(lambda: serves("node1"))
    assert not engines & engine_pids("node1")
    assert len(engine_pids("node1")) == len(engines)


def test_restarted_node_serves_again() -> None:
    engines = engine_pids("node1")
    run("docker", "restart", "inferops-demo-node1")
    assert chat()
    wait_until(lambda: serves("node1"))
    assert len(engine_pids("node1")) == len(engines)


def test_changed_configuration_restarts_the_limited_node_alone() -> None:
    before = {name: main_pid(name) for name in NODES}
    output = playbook("site.yml", "--limit", "node2", "-e", "vllm_service_restart_seconds=6")
    assert changes(output)["node2"] > 0
    after = {name: main_pid(name) for name in NODES}
    assert {name for name in NODES if after[name] != before[name]} == {"node2"}
    assert serves("node2")


def test_down_leaves_nothing() -> None:
    run("script/demo", "down", "--keep-images")
    for kind in ("container ls --all", "network ls", "volume ls"):
        assert "inferops-demo" not in run("docker", *kind.split())
    assert not (REPO / ".cache/demo").exists()
