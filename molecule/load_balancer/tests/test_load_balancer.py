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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import testinfra

SCENARIO = Path(__file__).parents[1]
REPO = SCENARIO.parents[1]
PREFIX = "inferops-load_balancer-"
NAMES = ("debian12", "debian13")
CONFIG = "/etc/haproxy/haproxy.cfg"
TINY, FAR, GONE, MIXED, STATS, METRICS = 8000, 8001, 8002, 8003, 8404, 8405
SERVERS = (9001, 9002)
AGENTS = (9411, 9412)


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


def completions(host: Any, server: int) -> float:
    """Requests for completions that a server has answered since its start."""
    return metric(host, server, 'http_requests_total{handler="/v1/completions"')


def say(host: Any, agent: int, **state: Any) -> dict[str, Any]:
    """Have an agent say something else of its server."""
    answer: dict[str, Any] = json.loads(post(host, "/simulator", agent, {"instance": "tiny", **state})["body"])
    return answer


@contextmanager
def all_well_after(host: Any) -> Iterator[None]:
    """Servers and agents are at work afterwards, and HAProxy knows it."""
    try:
        yield
    finally:
        host.check_output("systemctl start agent@9411 agent@9412 simulator@9001 simulator@9002")
        for agent in AGENTS:
            wait_until(lambda agent=agent: host.socket(f"tcp://127.0.0.1:{agent}").is_listening)
            say(host, agent, state="ready", draining=False)
        wait_until(lambda: all(is_up(host, "tiny", name) for name in ("one", "two", "_one_open", "_two_open")))


def together(test: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
    """A test that runs on all hosts at the same time."""

    def run(name: str, host: Any) -> None:
        try:
            with all_well_after(host):
                test(host)
        except BaseException as error:
            error.add_note(f"on {name}")
            raise

    def run_all(hosts: dict[str, Any]) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(run, hosts, hosts.values()))

    run_all.__doc__ = test.__doc__
    return run_all


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


@together
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


@together
def test_killed_server_loses_no_request(host: Any) -> None:
    restarts = "systemctl show --property NRestarts --value simulator@9001"
    before = int(host.check_output(restarts))
    kill = ("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "simulator@9001")
    found = client(host, "load", "--port", TINY, "--", *kill)
    assert found["failed"] == []
    assert found["answered"] > 20
    assert int(host.check_output(restarts)) > before


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


@together
def test_reload_loses_no_request_and_keeps_the_master(host: Any) -> None:
    pid = "systemctl show --property MainPID --value haproxy"
    before = host.check_output(pid)
    found = client(host, "load", "--port", TINY, "--seconds", 3, "--", "systemctl", "reload", "haproxy")
    assert found["failed"] == []
    assert host.check_output(pid) == before


@together
def test_agents_decide(host: Any) -> None:
    """A server that is drained or not ready gets no request after 3 s at most, and finishes the stream that it has."""
    say(host, AGENTS[1], state="hung")
    wait_until(lambda: not is_up(host, "tiny", "two"), 3)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(post, host, "/v1/completions", TINY, prompt(500, stream=True))
        wait_until(lambda: metric(host, SERVERS[0], "vllm:num_requests_running") == 1)
        say(host, AGENTS[1], state="ready")
        for state in ({"draining": True}, {"draining": False, "state": "hung"}):
            wait_until(lambda: is_up(host, "tiny", "two"), 3)
            say(host, AGENTS[0], **state)
            wait_until(lambda: not is_up(host, "tiny", "one"), 3)
            assert metric(host, SERVERS[0], "vllm:num_requests_running") == 1
            before = completions(host, SERVERS[0])
            assert client(host, "load", "--port", TINY, "--seconds", 1)["failed"] == []
            assert completions(host, SERVERS[0]) == before
            say(host, AGENTS[0], state="ready", draining=False)
            wait_until(lambda: is_up(host, "tiny", "one"), 3)
    assert stream.result()["body"].endswith("data: [DONE]\n\n")
    assert stream.result()["body"].count('"text":" ') == 500


@together
def test_dead_agents(host: Any) -> None:
    """A node whose agent is dead is out while others have one; once all are dead, the servers' own answers decide."""
    found = client(host, "load", "--port", TINY, "--seconds", 3, "--", "systemctl", "stop", "agent@9411")
    assert found["failed"] == []
    wait_until(lambda: not is_up(host, "tiny", "one"), 4)
    before = completions(host, SERVERS[0])
    client(host, "load", "--port", TINY, "--seconds", 1)
    assert completions(host, SERVERS[0]) == before
    found = client(host, "load", "--port", TINY, "--seconds", 6, "--", "systemctl", "stop", "agent@9412")
    assert found["failed"] == []
    wait_until(lambda: not is_up(host, "tiny", "two"), 4)
    client(host, "load", "--port", TINY, "--seconds", 1)
    assert completions(host, SERVERS[0]) > before
    host.check_output("systemctl stop simulator@9001")
    assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 200


@together
def test_drained_servers_serve_nobody(host: Any) -> None:
    """Not even when there is no other, whatever /health says, and when their agents are gone since."""
    for agent in AGENTS:
        say(host, agent, draining=True)
    wait_until(lambda: not any(is_up(host, "tiny", name) for name in ("one", "two", "_one_open", "_two_open")), 3)
    before = [completions(host, server) for server in SERVERS]
    assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 503
    host.check_output("systemctl reload haproxy")
    assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 503
    host.check_output("systemctl stop agent@9411 agent@9412")
    time.sleep(2)
    assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 503
    assert [completions(host, server) for server in SERVERS] == before


@together
def test_hung_server_that_is_killed_loses_no_request(host: Any) -> None:
    """It holds its requests until it is killed, and they are repeated on the other one then."""
    with ThreadPoolExecutor() as pool:
        load = pool.submit(client, host, "load", "--port", TINY, "--seconds", 8)
        wait_until(lambda: metric(host, SERVERS[0], "vllm:num_requests_running") > 0)
        post(host, "/simulator", SERVERS[0], {"hang": True})
        time.sleep(2)
        say(host, AGENTS[0], state="hung")
        wait_until(lambda: not is_up(host, "tiny", "one"), 3)
        assert json.loads(get(host, "/load", SERVERS[0])["body"])["server_load"] > 0
        host.check_output("systemctl kill --signal=KILL simulator@9001")
        found = load.result()
    assert found["failed"] == []
    assert found["answered"] > 20
    assert found["slowest"] > 2


@together
def test_request_of_the_last_ready_server_goes_where_health_is_good(host: Any) -> None:
    """The other server is ready for no agent, but answers /health."""
    host.check_output("systemctl stop agent@9412")
    wait_until(lambda: not is_up(host, "tiny", "two"), 6)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(post, host, "/v1/completions", TINY, prompt(150))
        wait_until(lambda: metric(host, SERVERS[0], "vllm:num_requests_running") == 1)
        host.check_output("systemctl kill --signal=KILL simulator@9001; systemctl stop simulator@9001")
        say(host, AGENTS[0], state="down")
    assert answer.result()["status"] == 200


@together
def test_reload_keeps_drained_servers_out(host: Any) -> None:
    say(host, AGENTS[0], draining=True)
    wait_until(lambda: not is_up(host, "tiny", "one"), 3)
    before = completions(host, SERVERS[0])
    found = client(host, "load", "--port", TINY, "--seconds", 3, "--", "systemctl", "reload", "haproxy")
    assert found["failed"] == []
    assert completions(host, SERVERS[0]) == before


@together
def test_reload_takes_new_ports(host: Any) -> None:
    """What HAProxy keeps of its servers over a reload does not hide where they are now."""
    host.check_output(f"cp --preserve {CONFIG} /var/tmp/good.cfg")
    try:
        host.check_output(f"sed -i 's/9001 port 9411/9003 port 9413/; s/agent-port 9412/agent-port 9414/' {CONFIG}")
        host.check_output("systemctl reload haproxy")
        states = "echo 'show servers state tiny' | socat - UNIX-CONNECT:/run/haproxy/admin.sock"
        wait_until(lambda: " 9003 - 0 9413 " in host.check_output(states), 5)
        assert " 9414\n" in host.check_output(states)
    finally:
        host.check_output(f"cp --preserve /var/tmp/good.cfg {CONFIG} && systemctl reload haproxy")


@together
def test_node_without_agent_beside_one_with_it(host: Any) -> None:
    """Its server's own answer counts as much as the agent's does for the other."""
    say(host, AGENTS[0], state="hung")
    wait_until(lambda: not is_up(host, "mixed", "one"), 3)
    before = completions(host, SERVERS[0])
    client(host, "load", "--port", MIXED, "--seconds", 1)
    assert completions(host, SERVERS[0]) == before
    host.check_output("systemctl stop simulator@9002")
    wait_until(lambda: not is_up(host, "mixed", "two"), 5)
    assert post(host, "/v1/completions", MIXED, prompt(1))["status"] == 200
    assert completions(host, SERVERS[0]) == before + 1


@together
def test_agents_are_asked_thrice_a_second(host: Any) -> None:
    before = say(host, AGENTS[1])["asked"]
    time.sleep(5)
    after = say(host, AGENTS[1])["asked"]
    for kind in ("ready", "agent", "open"):
        assert 3 <= after[kind] - before[kind] <= 7


@pytest.fixture
def failing(host: Any) -> Iterator[None]:
    """Both servers answer 500."""
    for port in SERVERS:
        post(host, "/simulator", port, {"fail": True})
    yield
    for port in SERVERS:
        post(host, "/simulator", port, {"fail": False})


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("path", "kibibytes", "tries"),
    [("/v1/completions", 0, 6), ("/v1/completions", 254, 6), ("/v1/completions", 257, 1), ("/invocations", 0, 1)],
)
def test_only_what_may_be_repeated_is_repeated(host: Any, path: str, kibibytes: int, tries: int) -> None:
    def failures() -> float:
        return sum(
            metric(host, port, f'http_requests_total{{handler="{path}",method="POST",status="5xx"') for port in SERVERS
        )

    before = failures()
    assert post(host, path, TINY, prompt(1), "--padding", kibibytes * 1024)["status"] == 500
    assert failures() - before == tries


@together
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
        host.check_output(f"cp --preserve {CONFIG} /var/tmp/good.cfg")
    try:
        done = converge(load_balancer_services=services)
        assert done.stdout.count("failed=1") == len(hosts)
        assert "HAProxy itself answers on each service's port" in done.stdout
        for host in hosts.values():
            assert post(host, "/v1/completions", TINY, prompt(1))["status"] == 200
    finally:
        for host in hosts.values():
            host.check_output(f"cp --preserve /var/tmp/good.cfg {CONFIG} && systemctl reload haproxy")
