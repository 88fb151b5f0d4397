"""Instances and agent under a supervisord of their own, on a host without systemd and on one with it."""

import json
import time

import pytest

AGENT_PORT = 9410
PORTS = {"open": 8000, "second": 8001}
BIN = "/opt/vllm/bin"


@pytest.fixture
def booted(host):
    """Whether systemd runs the host."""
    return host.file("/run/systemd/system").is_directory


def ask(host, port, path, body=None, key="molecule-key"):
    data = "None" if body is None else repr(json.dumps(body).encode())
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    program = (
        "import urllib.request as u; print(u.urlopen(u.Request("
        f"'http://127.0.0.1:{port}{path}', {data}, {headers}), timeout=5).read().decode())"
    )
    return host.run("python3 -c %s", program)


def record(host, name):
    return json.loads(host.file(f"/run/vllm/{name}.json").content_string)


def main_pid(host, name="open"):
    return record(host, name)["pid"]


def engines(host, name="open"):
    found = host.run(
        f"grep -lz '^INFEROPS_VLLM_INSTANCE={name}$' $(grep -l '^VLLM::' /proc/[0-9]*/comm | sed s/comm/environ/)"
    )
    return [int(path.split("/")[2]) for path in found.stdout.split()]


def status(host, name="open"):
    page = json.loads(ask(host, AGENT_PORT, "/status").stdout)
    return next(found for found in page["instances"] if found["instance"] == name)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (ValueError, RuntimeError, StopIteration):
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


def served_by_another(host, old, name="open"):
    wait_until(lambda: main_pid(host, name) != old and ask(host, PORTS[name], "/health").rc == 0)
    wait_until(lambda: status(host, name)["ready"] and len(engines(host, name)) == 1)


def program(host, name):
    return host.run(f"{BIN}/vllm-supervisorctl status {name}").stdout.split()


@pytest.mark.parametrize("name", list(PORTS))
def test_instances_serve(host, name):
    assert program(host, f"vllm@{name}")[1] == "RUNNING"
    assert json.loads(ask(host, PORTS[name], "/v1/models").stdout)["data"][0]["id"] == name
    wait_until(lambda: status(host, name)["ready"])


def test_the_server_is_the_service_user_s(host):
    pid = main_pid(host)
    about = host.check_output(f"cat /proc/{pid}/status")
    assert f"Uid:\t{host.check_output('id -u vllm')}\t" in about
    assert "NoNewPrivs:\t1" in about
    assert "CapEff:\t0000000000000000" in about
    # As much of the 65536 as the container may have.
    soft, hard = host.check_output(f"grep 'Max open files' /proc/{pid}/limits").split()[3:5]
    assert soft == hard
    assert host.check_output(f"readlink /proc/{pid}/cwd") == "/var/cache/vllm"
    assert host.check_output(f"readlink /proc/{pid}/fd/0") == "/dev/null"


def test_keys_and_control_are_for_nobody_else(host):
    socket = host.file("/run/vllm-supervisor.sock")
    assert (socket.user, socket.mode) == ("root", 0o700)
    config = host.file("/etc/vllm/instances/open.yaml")
    assert (config.user, config.mode) == ("vllm", 0o600)
    assert "molecule-key" not in host.check_output("ps axewww")
    assert "molecule-key" not in host.check_output("cat /var/log/vllm/*.log")
    assert host.file("/var/log/vllm").mode == 0o750


def test_starts_at_boot(host, booted):
    if booted:
        assert host.service("vllm-supervisord").is_enabled
    else:
        assert "@reboot root /opt/vllm/bin/vllm-supervisord" in host.file("/etc/cron.d/vllm-supervisord").content_string


def test_kill_of_the_api_server(host):
    old, old_engines = main_pid(host), engines(host)
    host.check_output(f"kill -9 {old}")
    served_by_another(host, old)
    assert not set(old_engines) & set(engines(host))


def test_kill_of_the_engine(host):
    old = main_pid(host)
    host.check_output(f"kill -9 {engines(host)[0]}")
    served_by_another(host, old)


def test_kill_of_the_parent(host):
    old, (engine,) = main_pid(host), engines(host)
    host.check_output(f"kill -9 $(ps -o ppid= -p {old})")
    served_by_another(host, old)
    assert engine not in engines(host)


def test_hung_engine_is_healed_by_the_agent(host):
    wait_until(lambda: status(host, "second")["ready"])
    old = main_pid(host, "second")
    host.check_output(f"kill -STOP {engines(host, 'second')[0]}")
    wait_until(lambda: status(host, "second")["actions"].get("kill"))
    served_by_another(host, old, "second")


def test_stop_leaves_nothing_and_is_let_be(host):
    old, agent = main_pid(host), program(host, "vllm-node-agent")[3:4]
    host.check_output(f"{BIN}/vllm-supervisorctl stop vllm@open")
    assert not engines(host)
    assert host.run(f"kill -0 {old}").rc != 0
    wait_until(lambda: status(host)["state"] == "down")
    time.sleep(5)
    assert program(host, "vllm@open")[1] == "STOPPED"
    assert program(host, "vllm-node-agent")[3:4] == agent
    host.check_output(f"{BIN}/vllm-supervisorctl start vllm@open")
    served_by_another(host, old)
    assert host.file("/run/vllm/open.restarts").content_string == "0"


def test_stream_in_flight_is_finished(host):
    body = {"model": "open", "prompt": "a", "max_tokens": 150, "ignore_eos": True, "stream": True}
    old = main_pid(host)
    host.check_output("rm -f /tmp/stream")
    sent = json.dumps(body)
    host.check_output(
        "python3 - >/dev/null 2>&1 <<'EOF' &\n"
        "import urllib.request as u\n"
        "request = u.Request('http://127.0.0.1:8000/v1/completions', b'" + sent + "',"
        " {'Authorization': 'Bearer molecule-key', 'Content-Type': 'application/json'})\n"
        "with u.urlopen(request, timeout=60) as answer, open('/tmp/stream', 'wb', 0) as stream:\n"
        "    for line in answer:\n"
        "        stream.write(line)\n"
        "EOF"
    )
    wait_until(lambda: "data" in host.file("/tmp/stream").content_string)
    host.check_output(f"{BIN}/vllm-supervisorctl restart vllm@open")
    text = host.file("/tmp/stream").content_string
    assert text.count("data: ") >= 150
    assert '"length"' in text
    served_by_another(host, old)


def test_held_port_is_waited_for_in_one_sentence(host):
    old = main_pid(host)
    told = host.file("/var/log/vllm/open.log").content_string.count("port 8000 is held")
    host.check_output(f"{BIN}/vllm-supervisorctl stop vllm@open")
    host.check_output("nohup python3 -m http.server 8000 >/dev/null 2>&1 & echo $! >/tmp/squatter")
    wait_until(lambda: host.socket("tcp://0.0.0.0:8000").is_listening)
    host.check_output(f"{BIN}/vllm-supervisorctl start vllm@open")
    wait_until(lambda: "port 8000 is held by python3" in status(host)["evidence"])
    time.sleep(4)
    host.check_output("kill $(cat /tmp/squatter)")
    served_by_another(host, old)
    assert host.file("/var/log/vllm/open.log").content_string.count("port 8000 is held") == told + 1


def test_agent_is_started_again(host, booted):
    if booted:
        pytest.skip("systemd keeps the agent here, which another scenario shows")
    old = program(host, "vllm-node-agent")[3]
    host.check_output(f"kill -9 {old.rstrip(',')}")
    wait_until(lambda: program(host, "vllm-node-agent")[1] == "RUNNING" and status(host)["ready"])
    assert program(host, "vllm-node-agent")[3] != old


def test_watchman_starts_a_stopped_agent(host, booted):
    if booted:
        pytest.skip("systemd keeps the agent here, which another scenario shows")
    old = program(host, "vllm-node-agent")[3].rstrip(",")
    host.check_output(f"kill -STOP {old}")
    host.check_output(f"{BIN}/vllm-health-check")
    wait_until(lambda: status(host)["ready"])
    assert program(host, "vllm-node-agent")[3].rstrip(",") != old


def test_death_of_supervisord(host, booted):
    """Its programs stop in peace, the next one starts them, and no port is served twice."""
    old, second = main_pid(host), main_pid(host, "second")
    host.check_output("kill -9 $(cat /run/vllm-supervisord.pid)")
    if not booted:
        host.check_output(f"{BIN}/vllm-health-check")
    served_by_another(host, old)
    served_by_another(host, second, "second")
