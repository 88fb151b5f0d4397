# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy between clients and two simulated vLLM servers on each host; every request stays among these hosts."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra

SCENARIO = Path(__file__).parents[1]
REPO = SCENARIO.parents[1]
PREFIX = "inferops-load_balancer-"
NAMES = ("debian12", "debian13")
CONFIG = "/etc/haproxy/haproxy.cfg"
TINY, FAR, GONE, STATS, METRICS = 8000, 8001, 8002, 8404, 8405
SERVERS = (9001, 9002)


def client(host: Any, *arguments: Any) -> dict[str, Any]:
    """What a command of client.py, run on the host, found."""
    words = " ".join(shlex.quote(str(argument)) for argument in arguments)
    answer: dict[str, Any] = json.loads(host.check_output(f"python3 /opt/simulator/client.py {words}"))
    return answer


def get(host: Any, path: str, port: int, *options: Any) -> dict[str, Any]:
    return client(host, "one", "GET", path, "--port", port, *options)


def post(host: Any, path: str, port: int, body: dict[str, Any], *options: Any) -> dict[str, Any]:
    return client(host, "one", "POST", path, "--port", port, "--body", json.dumps(body), *options)


def prompt(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "org/tiny", "prompt": "count", "max_tokens": tokens, "ignore_eos": True, **more}


def metric(host: Any, port: int, start: str) -> float:
    """The sum of a server's metrics whose lines begin so."""
    lines = get(host, "/metrics", port)["body"].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def wait_until(true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.5)


def is_up(host: Any, service: str, server: str) -> bool:
    line = f'haproxy_server_status{{proxy="{service}",server="{server}",state="UP"}} 1'
    return line in get(host, "/metrics", METRICS)["body"]


@pytest.fixture(scope="module")
def hosts() -> dict[str, Any]:
    """All hosts by name, for what a playbook does to them together."""
    return {name: testinfra.get_host(f"docker://{PREFIX}{name}") for name in NAMES}


def converge(**variables: Any) -> subprocess.CompletedProcess[str]:
    """Apply the role to all hosts with other variables."""
    return subprocess.run(
        [
            *("ansible-playbook", "-i", str(SCENARIO.parent / "shared/inventory"), str(SCENARIO / "converge.yml")),
            *("-e", json.dumps(variables)),
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".ansible/collections"),
            "MOLECULE_SCENARIO_NAME": SCENARIO.name,
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def checksums(hosts: dict[str, Any]) -> list[str]:
    return [host.file(CONFIG).sha256sum for host in hosts.values()]


def test_service(host: Any) -> None:
    service = host.service("haproxy")
    assert service.is_enabled
    assert service.is_running, host.check_output("journalctl -u haproxy --no-pager -n 50")


def test_files(host: Any) -> None:
    config = host.file(CONFIG)
    assert (config.user, config.group, config.mode) == ("root", "root", 0o640)
    assert "a good password" not in config.content_string
    socket = host.file("/run/haproxy/admin.sock")
    assert (socket.user, socket.group, socket.mode) == ("root", "haproxy", 0o660)


def test_completion(host: Any) -> None:
    answer = post(host, "/v1/completions", TINY, prompt(3))
    assert answer["status"] == 200
    assert json.loads(answer["body"])["choices"][0]["text"] == " 0 1 2"


def test_both_servers_answer_and_requests_are_logged(host: Any) -> None:
    client(host, "load", "--port", TINY, "--seconds", 1)
    log = host.check_output("journalctl --unit haproxy --output cat --no-pager --since '1 minute ago'")
    assert " tiny tiny/one " in log
    assert " tiny tiny/two " in log


def test_stream_is_not_held_back(host: Any) -> None:
    """A hundred tokens of 20 ms each: the first is here long before the last."""
    answer = post(host, "/v1/completions", TINY, prompt(100, stream=True))
    assert answer["status"] == 200
    assert answer["body"].endswith("data: [DONE]\n\n")
    assert answer["last"] - answer["first"] > 1.5


def test_killed_server_loses_no_request(host: Any) -> None:
    restarts = "systemctl show --property NRestarts --value simulator@9001"
    before = int(host.check_output(restarts))
    kill = ("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "simulator@9001")
    found = client(host, "load", "--port", TINY, "--", *kill)
    assert found["failed"] == []
    assert found["answered"] > 20
    assert int(host.check_output(restarts)) > before
    wait_until(lambda: is_up(host, "tiny", "one"))


def test_vanished_host_loses_no_request(host: Any, hosts: dict[str, Any]) -> None:
    """The other host's network is gone while HAProxy waits for its answers, so no packet tells of it."""
    other = next(other for name, other in hosts.items() if host.backend.name != PREFIX + name)
    route = other.check_output("ip route show default")
    wait_until(lambda: is_up(host, "far", "far"))
    running = ("vllm:num_requests_running", SERVERS[0])
    requests = ("load", "--port", FAR, "--clients", 4, "--seconds", 1, "--tokens", 300)
    words = " ".join(shlex.quote(str(word)) for word in requests)
    try:
        host.check_output(f"sh -c 'python3 /opt/simulator/client.py {words} >/tmp/found 2>&1 &'")
        wait_until(lambda: metric(other, running[1], running[0]) == 2)
        other.check_output("ip link set eth0 down")
        wait_until(lambda: host.file("/tmp/found").size > 0, 60)
    finally:
        other.check_output(f"ip link set eth0 up && ip route replace {route}")
    found = json.loads(host.file("/tmp/found").content_string)
    assert found["failed"] == []
    assert found["answered"] >= 4
    # 6 s of tokens, up to twice the peer timeout of 5 s, and 6 s of tokens again.
    assert 9 < found["slowest"] < 30


def test_reload_loses_no_request_and_keeps_the_master(host: Any) -> None:
    pid = "systemctl show --property MainPID --value haproxy"
    before = host.check_output(pid)
    found = client(host, "load", "--port", TINY, "--seconds", 3, "--", "systemctl", "reload", "haproxy")
    assert found["failed"] == []
    assert host.check_output(pid) == before


@pytest.fixture
def failing(host: Any) -> Iterator[None]:
    """Both servers answer 500."""
    for port in SERVERS:
        post(host, "/simulator", port, {"fail": True})
    yield
    for port in SERVERS:
        post(host, "/simulator", port, {"fail": False})


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(("path", "tries"), [("/v1/completions", 6), ("/invocations", 1)])
def test_only_what_may_be_repeated_is_repeated(host: Any, path: str, tries: int) -> None:
    def failures() -> float:
        return sum(
            metric(host, port, f'http_requests_total{{handler="{path}",method="POST",status="5xx"') for port in SERVERS
        )

    before = failures()
    assert post(host, path, TINY, prompt(1))["status"] == 500
    assert failures() - before == tries


def test_server_is_told_when_the_client_has_left(host: Any) -> None:
    """Nobody reads the answer, so the ten seconds of tokens are not generated."""
    assert post(host, "/v1/completions", TINY, prompt(500), "--timeout", 1)["status"] is None
    wait_until(lambda: sum(metric(host, port, "vllm:num_requests_running") for port in SERVERS) == 0, 4)


def test_no_server_ready(host: Any) -> None:
    """Its only server's name does not resolve, which hinders neither HAProxy nor the other services."""
    answer = post(host, "/v1/completions", GONE, prompt(1))
    assert answer["status"] == 503
    assert answer["headers"]["content-type"] == "application/json"
    error = json.loads(answer["body"])["error"]
    assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
    assert error["message"]


def test_haproxy_itself_answers(host: Any) -> None:
    assert get(host, "/haproxy-health", GONE)["status"] == 200


@pytest.mark.parametrize(
    ("user", "status"), [(None, 401), ("admin:a bad password", 401), ("admin:a good password", 200)]
)
def test_statistics_page_wants_its_password(host: Any, user: str | None, status: int) -> None:
    answer = get(host, "/", STATS, *(("--user", user) if user else ()))
    assert answer["status"] == status
    assert ("Statistics Report" in answer["body"]) == (status == 200)


def test_bad_configuration_replaces_nothing(hosts: dict[str, Any]) -> None:
    before = checksums(hosts)
    done = converge(load_balancer_backend_extra=["no such keyword"])
    assert done.stdout.count("failed to validate") >= len(hosts)
    assert checksums(hosts) == before
    assert all(host.service("haproxy").is_running for host in hosts.values())


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"load_balancer_services": []},
            "load_balancer_services is empty; list at least one service with its name, port and servers.",
        ),
        (
            {"load_balancer_stats_enabled": True, "load_balancer_stats_password": ""},
            (
                "load_balancer_stats_enabled is true, and load_balancer_stats_password is empty; "
                "set a password, or leave the page off."
            ),
        ),
        (
            {"load_balancer_stats_user": "a b"},
            "load_balancer_stats_user is 'a b'; use letters, digits, '.', '_' and '-'.",
        ),
    ],
)
def test_wrong_input_stops_before_any_change(hosts: dict[str, Any], variables: dict[str, Any], sentence: str) -> None:
    before = checksums(hosts)
    done = converge(**variables)
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    for name in hosts:
        assert f"{name}: {sentence}" in output
    assert done.stdout.count("changed=0") == len(hosts)
    assert checksums(hosts) == before


def test_port_held_by_another_program_is_noticed(hosts: dict[str, Any]) -> None:
    """HAProxy keeps its old worker then, and a reload says nothing."""
    servers = [{"name": "one", "address": "127.0.0.1", "port": SERVERS[0]}]
    ports = {"tiny": TINY, "held": SERVERS[1]}
    services = [{"name": name, "port": port, "servers": servers} for name, port in ports.items()]
    for host in hosts.values():
        host.check_output(f"cp --preserve {CONFIG} /root/good.cfg")
    try:
        done = converge(load_balancer_services=services)
        assert done.stdout.count("failed=1") == len(hosts)
        assert "HAProxy itself answers on each service's port" in done.stdout
        for host in hosts.values():
            assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 200
    finally:
        for host in hosts.values():
            host.check_output(f"cp --preserve /root/good.cfg {CONFIG} && systemctl reload haproxy")
