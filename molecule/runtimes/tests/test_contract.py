"""What every runtime promises. A clause that one cannot keep is skipped there, with the reason for the table."""

from __future__ import annotations

import json
import re
import time

import pytest


class Contract:
    """The tests of a host, for each of its runtimes."""

    def test_serves(self, node, runtime):
        for name, port in node.ports.items():
            assert json.loads(node.ask(port, "/v1/models"))["data"][0]["id"] == name
            assert json.loads(node.run(f"cat /etc/vllm/instances/{name}.json"))["runtime"] == runtime
            node.wait(lambda name=name: node.status(name)["ready"])

    def test_nothing_is_left_of_another_runtime(self, node, runtime):
        left = {
            "systemd": node.run("systemctl list-units --plain --no-legend 'vllm@*' || true")
            + node.run("ls /etc/systemd/system/multi-user.target.wants | grep vllm@ || true")
            + node.run("ls -d /etc/systemd/system/vllm@*.d /etc/systemd/system/vllm.slice 2>/dev/null || true"),
            "supervisor": node.host.run("/opt/vllm/bin/vllm-supervisorctl status | grep vllm@").stdout,
            "docker": node.host.run("docker ps --all --quiet; ls /etc/tmpfiles.d/vllm.conf").stdout,
            "tmux": node.run("ls /etc/cron.d/vllm-tmux 2>/dev/null || true") + node.run("pgrep tmux || true"),
            "screen": node.run("ls /etc/cron.d/vllm-screen 2>/dev/null || true") + node.run("pgrep -i screen || true"),
        }
        assert [name for name, found in left.items() if found.strip()] == [runtime]

    def test_check_mode_foretells_a_switch_and_changes_nothing(self, node, runtime):
        old = node.main()
        other = "supervisor" if runtime == "systemd" else "systemd"
        assert node.converge("--check", runtime=other) > 0
        assert node.main() == old

    def test_second_run_changes_nothing(self, node):
        assert node.converge() == 0

    def test_starts_at_boot(self, node, runtime):
        node.reboot()
        for name in node.ports:
            node.wait(lambda name=name: node.status(name)["ready"] and len(node.engines(name)) == 1)
        if runtime == "docker":
            # Whoever starts a container first must find what it mounts.
            assert "/run/vllm" in node.run("systemd-tmpfiles --cat-config")

    def test_restarts_on_kill_of_the_server(self, node):
        old, engines = node.main(), node.engines()
        node.run(f"kill -9 {old}")
        node.served_by_another(old)
        assert not set(engines) & set(node.engines())

    def test_restarts_on_kill_of_the_engine_and_exit_0(self, node):
        old = node.main()
        node.run(f"kill -9 {node.engines()[0]}")
        node.served_by_another(old)

    def test_restarts_on_exit_1(self, node):
        old, model = node.main(), "/srv/model/config.json"
        node.run(f"mv {model} {model}.away")
        try:
            node.run(f"kill -9 {old}")
            told = "model /srv/model: config.json: "
            node.wait(lambda: node.instance("log").count(told) > 2)
        finally:
            node.run(f"mv {model}.away {model}")
        node.served_by_another(old)

    def test_agent_heals_a_hung_engine(self, node):
        node.wait(lambda: node.status("second.one")["ready"])
        old, kills = node.main("second.one"), node.status("second.one")["actions"].get("kill", 0)
        node.run(f"kill -STOP {node.engines('second.one')[0]}")
        node.wait(lambda: node.status("second.one")["actions"].get("kill", 0) > kills)
        node.served_by_another(old, "second.one")

    def test_cron_heals_a_hung_engine_without_the_agent(self, node):
        node.wait(lambda: node.status("second.one")["ready"])
        old = node.main("second.one")
        node.run("systemctl disable --now vllm-node-agent 2>/dev/null")
        try:
            node.run(f"kill -STOP {node.engines('second.one')[0]}")
            node.run("timeout 55 /opt/vllm/bin/vllm-health-check >/dev/null 2>&1 & ")
            node.wait(lambda: node.main("second.one") != old and node.engines("second.one"))
        finally:
            node.host.run("pkill -f /opt/vllm/bin/vllm-health-check")
            node.run("systemctl enable --now vllm-node-agent 2>/dev/null")
        node.served_by_another(old, "second.one")

    def test_stop_lets_a_stream_finish(self, node):
        old = node.main()
        body = json.dumps({"model": "open", "prompt": "a", "max_tokens": 150, "ignore_eos": True, "stream": True})
        program = f"""
import urllib.request as u
headers = {{"Authorization": "Bearer {node.key}", "Content-Type": "application/json"}}
with u.urlopen(u.Request("http://127.0.0.1:8000/v1/completions", {body.encode()}, headers), timeout=60) as answer:
    with open("/tmp/stream", "wb", 0) as stream:
        for line in answer:
            stream.write(line)
"""
        node.run("rm -f /tmp/stream; (python3 -c %s >/dev/null 2>&1 &)", program)
        node.wait(lambda: "data" in node.run("cat /tmp/stream"))
        node.instance("restart")
        text = node.run("cat /tmp/stream")
        assert text.count("data: ") >= 150
        assert '"finish_reason":"length"' in text
        node.served_by_another(old)

    def test_stop_leaves_nothing_and_is_let_be(self, node):
        old = node.main()
        node.instance("stop")
        assert node.marked() == []
        node.wait(lambda: node.status()["state"] == "down")
        time.sleep(3)
        assert node.marked() == []
        node.instance("start")
        node.served_by_another(old)

    def test_restart_of_what_keeps_it_is_survived(self, node, runtime):
        verbs = {
            "systemd": "daemon-reexec",
            "supervisor": "restart vllm-supervisord",
            "docker": "restart docker",
        }
        if runtime not in verbs:
            pytest.skip("a session ends with its terminal multiplexer, and is down until the next start or boot")
        old = node.main()
        node.run(f"systemctl {verbs[runtime]}")
        node.wait(lambda: node.instance("status").startswith("running") and node.ask(8000, "/health") is not None)
        # Its servers stop in peace, and the next supervisord starts them.
        assert (node.main() != old) == (runtime == "supervisor")

    def test_one_instance_is_restarted_alone(self, node):
        old, other = node.main(), node.main("second.one")
        node.instance("restart")
        node.served_by_another(old)
        assert node.main("second.one") == other

    def test_refuses_a_port_that_another_program_holds(self, node, runtime):
        holder = "a program outside the container" if runtime == "docker" else "python3"
        old = node.main()
        node.instance("stop")
        node.run("(python3 -m http.server 8000 >/dev/null 2>&1 & echo $! >/tmp/squatter)")
        try:
            node.wait(lambda: node.host.socket("tcp://0.0.0.0:8000").is_listening)
            node.host.run("/opt/vllm/bin/vllm-instance start open")
            node.wait(lambda: f"port 8000 is held by {holder}" in node.status()["evidence"])
        finally:
            node.run("kill $(cat /tmp/squatter)")
        node.served_by_another(old)

    def test_keys_are_nowhere_to_be_seen(self, node, runtime):
        config = node.host.file("/etc/vllm/instances/open.yaml")
        assert (config.user, config.mode) == ("vllm", 0o600)
        assert node.key not in node.run("ps axewww")
        assert node.key not in node.run("journalctl --no-pager; cat /var/log/vllm/*.log")
        assert node.key not in node.run("cat /etc/vllm/instances/open.json")
        if runtime == "docker":
            assert node.key not in node.run("docker inspect vllm-open; docker logs vllm-open 2>&1")

    def test_log_is_kept_and_shown(self, node, runtime):
        assert "Application startup complete" in node.instance("log")
        if runtime == "docker":
            assert node.container()["HostConfig"]["LogConfig"]["Config"] == {"max-file": "11", "max-size": "50m"}

    def test_log_is_rotated_and_loses_nothing(self, node, runtime):
        if runtime == "systemd":
            node.run("journalctl --rotate")
            assert "Application startup complete" in node.instance("log")
            return
        # Through the server's own standard output: more than a file takes.
        lines, words = 1_500_000, f"lines of a server that {runtime} keeps"
        node.run(f"seq --format='%.0f {words}' {lines} >/proc/{node.main()}/fd/1")
        logs = node.container()["LogPath"] if runtime == "docker" else "/var/log/vllm/open.log"
        # One or two may have got another one's in between.
        node.wait(lambda: int(node.run(f"cat {logs}* | grep -c '{words}'")) >= lines - 2)
        assert int(node.run(f"ls {logs}* | wc -l")) > 1
        assert node.run(f"find {logs}* -size +51M") == ""

    def test_status_is_told(self, node):
        assert re.match(rf"running, pid {node.main()}, \d+ restarts", node.instance("status"))

    def test_server_is_without_rights(self, node, runtime):
        about = node.run(f"cat /proc/{node.main()}/status")
        assert f"Uid:\t{node.run('id -u vllm')}\t" in about
        assert "NoNewPrivs:\t1" in about
        assert "CapEff:\t0000000000000000" in about
        if runtime == "docker":
            container = node.container()
            confined = container["HostConfig"]
            assert container["Config"]["User"] == f"{node.run('id -u vllm')}:{node.run('id -g vllm')}"
            assert (confined["ReadonlyRootfs"], confined["Privileged"], confined["CapAdd"]) == (True, False, None)
            assert (confined["CapDrop"], confined["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
            writable = {mount["Destination"] for mount in container["Mounts"] if mount["RW"]}
            assert writable == {"/run/vllm", "/var/cache/vllm"}
            assert node.host.run("docker exec vllm-open touch /opt/vllm/x /usr/x").rc != 0

    def test_removal_is_foretold_and_leaves_nothing(self, node):
        old = node.main("second.one")
        assert node.converge("--check", "--extra-vars=with_second=false") > 0
        assert node.main("second.one") == old
        assert node.converge("--extra-vars=with_second=false") > 0
        assert node.marked("second.one") == []
        assert "second.one" not in node.run("ls /etc/vllm/instances /etc/systemd/system")


class TestDebian12(Contract):
    host = "debian12"


class TestDebian13(Contract):
    host = "debian13"
