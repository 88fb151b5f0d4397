import json
import re
import time

import pytest

UNIT = "vllm@open.service"


def main_pid(host, unit=UNIT):
    return int(host.check_output(f"systemctl show --property MainPID --value {unit}"))


def engines(host):
    """Engine processes of the instance `open`."""
    found = host.run(
        "grep -lz '^INFEROPS_VLLM_INSTANCE=open$' $(grep -l '^VLLM::' /proc/[0-9]*/comm | sed s/comm/environ/)"
    )
    return [int(path.split("/")[2]) for path in found.stdout.split()]


def get(host, path, port=8000, key="molecule-key"):
    program = (
        "import urllib.request as u; print(u.urlopen(u.Request("
        f"'http://127.0.0.1:{port}{path}', headers={{'Authorization': 'Bearer {key}'}}), timeout=5).read().decode())"
    )
    return host.run(f'python3 -c "{program}"')


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


def serves_again(host, old):
    return main_pid(host) not in (0, old) and get(host, "/health").rc == 0


@pytest.mark.parametrize(("name", "port"), [("open", 8000), ("second", 8001)])
def test_instances_serve_and_start_at_boot(host, name, port):
    service = host.service(f"vllm@{name}.service")
    assert service.is_enabled
    assert service.is_running, host.run(f"journalctl -u vllm@{name}").stdout
    assert json.loads(get(host, "/v1/models", port).stdout)["data"][0]["id"] == name


def test_files_with_keys_are_for_the_service_alone(host):
    config = host.file("/etc/vllm/instances/open.yaml")
    assert (config.user, config.mode) == ("vllm", 0o600)
    assert "molecule-key" not in host.check_output("cat /etc/vllm/instances/open.json")
    assert "molecule-key" not in host.check_output("ps axww")
    assert "molecule-key" not in host.check_output(f"journalctl -u {UNIT}")
    assert get(host, "/v1/models", key="wrong").rc != 0


def test_server_sees_its_own_secrets_alone(host):
    pid = main_pid(host)
    inside = f"nsenter --target {pid} --mount setpriv --reuid vllm --regid vllm --clear-groups cat"
    assert "molecule-key" in host.check_output(f"{inside} /run/credentials/{UNIT}/open.yaml")
    assert "molecule-token" in host.check_output(f"{inside} /run/credentials/{UNIT}/open.yaml")
    assert host.run(f"{inside} /etc/vllm/instances/open.yaml").rc != 0
    assert host.run(f"{inside} /run/credentials/vllm@second.service/second.yaml").rc != 0
    seen = host.check_output(f"systemctl show {UNIT}; cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'")
    assert f"/run/credentials/{UNIT}/open.yaml" in seen
    assert "molecule-key" not in seen
    assert "molecule-token" not in seen + host.check_output("journalctl")


def test_sandbox_leaves_little(host):
    told = host.check_output(f"systemd-analyze security --no-pager {UNIT}")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert float(exposure[1]) <= 2.5, told


def test_settings_of_one_instance_and_of_all(host):
    def properties(unit, names):
        return host.check_output(f"systemctl show --property {names} --value {unit}").split()

    assert properties("vllm@second", "MemoryMax") == [str(1 << 30)]
    assert properties("vllm@second", "Nice") == ["5"]
    assert properties(UNIT, "Nice") == ["0"]
    assert [properties(unit, "Slice") for unit in (UNIT, "vllm@second")] == [["vllm.slice"]] * 2
    assert properties("vllm.slice", "MemoryMax") == [str(3 << 30)]


def test_journal_loses_nothing_of_a_server_that_says_much(host):
    # It takes in what it was given at its own pace.
    host.check_output("journalctl --sync")
    lines = host.check_output("journalctl --output cat --unit vllm@second").splitlines()
    assert {f"burst{number}" for number in range(1, 20001)} <= set(lines)


def test_server_runs_from_the_real_directory(host):
    assert host.file(f"/proc/{main_pid(host)}/cmdline").content_string.split("\0")[0].startswith("/opt/vllm/venvs/")


def test_kill_of_the_api_server(host):
    old, old_engines = main_pid(host), engines(host)
    assert old_engines
    host.check_output(f"kill -9 {old}")
    wait_until(lambda: serves_again(host, old))
    assert not set(old_engines) & set(engines(host))
    assert len(engines(host)) == len(old_engines)


def test_kill_of_the_engine(host):
    old = main_pid(host)
    for pid in engines(host):
        host.check_output(f"kill -9 {pid}")
    wait_until(lambda: serves_again(host, old))
    assert len(engines(host)) == 1


def start_engine(host, unit, instance):
    """An engine process outside of the instance's control group."""
    program = "open('/proc/self/comm', 'w').write('VLLM::EngineCor'); import time; time.sleep(600)"
    run = f"systemd-run --quiet --unit {unit} --uid vllm --setenv INFEROPS_VLLM_INSTANCE={instance}"
    host.check_output(f'{run} python3 -c "{program}"')


def test_leftover_engine_is_removed_before_a_start(host):
    host.check_output("systemctl stop vllm@open")
    start_engine(host, "leftover", "open")
    wait_until(lambda: engines(host))
    leftover = engines(host)
    host.check_output("systemctl start vllm@open")
    wait_until(lambda: get(host, "/health").rc == 0)
    assert not set(leftover) & set(engines(host))


def test_foreign_engine_is_left_alone(host):
    start_engine(host, "foreign", "another")
    old = main_pid(host)
    host.check_output("systemctl restart vllm@open")
    wait_until(lambda: serves_again(host, old))
    assert host.service("foreign").is_running
    host.check_output("systemctl stop foreign")


def test_held_port_is_refused_in_one_sentence(host):
    host.check_output("systemctl stop vllm@open")
    host.check_output("systemd-run --quiet --unit squatter python3 -m http.server 8000")
    wait_until(lambda: host.socket("tcp://0.0.0.0:8000").is_listening)
    host.run("systemctl start vllm@open")
    assert "port 8000 is held by python3 (pid" in host.check_output(f"journalctl --output cat -u {UNIT} -n 20")
    host.check_output("systemctl stop squatter")
    wait_until(lambda: get(host, "/health").rc == 0)


def test_stop_leaves_nothing(host):
    host.check_output("systemctl stop vllm@open")
    assert not engines(host)
    host.check_output("systemctl start vllm@open")
    wait_until(lambda: get(host, "/health").rc == 0)
