import json
import time

UNIT = "vllm@watched.service"
LOG = "/var/log/vllm/health_check.log"


def main_pid(host):
    return int(host.check_output(f"systemctl show --property MainPID --value {UNIT}"))


def healthy(host):
    return (
        host.run("python3 -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)\"").rc
        == 0
    )


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)


def test_cron_restarts_a_deaf_server_and_says_why(host):
    old = main_pid(host)
    host.check_output(f"kill -STOP {old}")
    # A minute until cron looks, three tries of two seconds, and the stop.
    wait_until(lambda: main_pid(host) not in (0, old) and healthy(host), 90)
    line = json.loads(host.check_output(f"grep '\"restart\"' {LOG}").splitlines()[-1])
    assert line["instance"] == "watched"
    assert len(line["evidence"]) == 3
    assert "timed out" in line["evidence"][0]


def test_server_that_an_operator_stopped_stays_stopped(host):
    host.check_output(f"systemctl stop {UNIT}")
    host.check_output("/opt/vllm/bin/vllm-health-check --tries 1")
    assert not host.service(UNIT).is_running
    host.check_output(f"systemctl start {UNIT}")
    wait_until(lambda: healthy(host), 20)


def test_never_two_checks_at_once(host):
    old = main_pid(host)
    host.check_output(f"kill -STOP {old}")
    out = host.check_output(
        "flock /run/vllm/health-check.lock /opt/vllm/bin/vllm-health-check --tries 1 --timeout-seconds 1"
    )
    host.check_output(f"kill -CONT {old}")
    assert out == ""
    assert main_pid(host) == old


def test_log_is_rotated(host):
    assert host.run("logrotate --debug /etc/logrotate.d/vllm-health-check").rc == 0


def test_no_mail_server_came_along(host):
    assert not host.package("exim4-base").is_installed
