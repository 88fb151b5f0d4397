"""Each verb on a fleet of two simulated nodes and a load balancer, one after another; the last removes it all."""

from __future__ import annotations

import gzip
import json
import tarfile

PLAY = "ansible-playbook inferops.vllm."
SECRETS = ("planted-api-key", "planted0hub0token", "planted-in-the-environment", "planted-in-a-hook")
STATUS = f"{PLAY}status -i inventory"
DRAIN = f"{PLAY}drain -i inventory --limit gpu3 -e vllm_drain_reason=memory"
DRAIN_ONE = f"{PLAY}drain -i inventory --limit gpu3 -e vllm_names=qwen3vl -e vllm_drain_wait=false"
UNDRAIN = f"{PLAY}undrain -i inventory --limit gpu3"
RECOVER = f"{PLAY}recover -i inventory"
UNINSTALL = f"{PLAY}uninstall -i inventory --limit gpu3 -e vllm_uninstall=yes"
UNINSTALL_ALL = f"{PLAY}uninstall -i inventory -e vllm_uninstall=yes -e vllm_uninstall_models=true"


def test_status_of_a_sound_fleet(fleet):
    done = fleet.run(STATUS)
    assert done.rc == 0, done.output
    assert "All is well: 4 instances on 2 nodes." in done.output
    assert set(done.changed.values()) == {0}
    assert not list(fleet.folder.iterdir())


def test_drain_leaves_enough(fleet):
    assert fleet.run(DRAIN, "--check").changed["debian13"] == 1
    assert not fleet.hosts["debian13"].file("/var/lib/vllm/drain/chat").exists
    done = fleet.run(DRAIN_ONE)
    assert (done.rc, done.changed["debian13"]) == (0, 1), done.output
    done = fleet.run(DRAIN)
    assert (done.rc, done.changed["debian13"]) == (0, 1), done.output
    assert fleet.run(DRAIN).changed["debian13"] == 0
    assert json.loads(fleet.on("debian13", "cat /var/lib/vllm/drain/second.one"))["reason"] == "memory"
    # What is left is all that there is.
    done = fleet.run(f"{PLAY}drain -i inventory --limit debian12")
    assert done.rc != 0
    assert (
        "Nothing is drained: chat would be left with 0 of 2 servers at lb1, and 50% of them, 1, must stay" in done.words
    )
    assert fleet.on("debian12", "ls /var/lib/vllm/drain") == ""
    done = fleet.run(DRAIN, "-e", "vllm_names=nobody")
    assert done.rc != 0
    assert "names has nobody, and the instances of this node are chat, second.one" in done.words


def test_status_names_what_is_not_well(fleet):
    fleet.on("debian12", "sed -i 's/^port: .*/port: 8000 /' /etc/vllm/instances/chat.yaml")
    fleet.on("debian12", "cp /etc/vllm/instances/chat.json /etc/vllm/instances/extra.json")
    fleet.on("debian12", 'sed -i \'s/"name": "chat"/"name": "extra"/\' /etc/vllm/instances/extra.json')
    done = fleet.run(f"{PLAY}status -i inventory --limit gpu3 -e vllm_status_file=vllm-status.json")
    assert done.rc != 0
    assert "not all is well: debian13: chat: drained since" in done.words
    found = json.loads((fleet.folder / "vllm-status.json").read_text())
    assert list(found["nodes"]) == ["debian13"]
    assert found["nodes"]["debian13"]["instances"]["chat"]["drained"]["drained"]
    fleet.on("lb1", "systemctl stop haproxy")
    done = fleet.run(STATUS, "-e", "vllm_status_file=all.json", "-e", '{"vllm_version": "0.34.0"}')
    fleet.on("lb1", "systemctl start haproxy")
    fleet.on("debian12", "rm /etc/vllm/instances/extra.json")
    assert done.rc != 0
    problems = "\n".join(json.loads((fleet.folder / "all.json").read_text())["problems"])
    assert "lb1: HAProxy does not answer at " in problems or "lb1: HAProxy has no admin socket" in problems
    assert "debian12: chat: its configuration on the node is older than the inventory" in problems
    assert "debian12: extra: surplus: the inventory does not have it" in problems
    assert "debian12: chat: it runs 0.33.0, and the inventory has 0.34.0" in problems


def test_status_shows_a_host_that_is_gone(fleet):
    done = fleet.run(
        STATUS, "-e", "vllm_status_file=gone.json", "--extra-vars", '{"ansible_host": "no-such-container"}'
    )
    assert done.rc != 0
    problems = json.loads((fleet.folder / "gone.json").read_text())["problems"]
    assert [problem for problem in problems if problem.startswith("debian12: ")]


def test_undrain_waits_for_the_load_balancer(fleet):
    done = fleet.run(UNDRAIN)
    assert (done.rc, done.changed["debian13"]) == (0, 1), done.output
    assert fleet.run(UNDRAIN).changed["debian13"] == 0
    shown = fleet.on("lb1", "echo 'show stat' | socat - UNIX-CONNECT:/run/haproxy/admin.sock")
    assert not [line for line in shown.splitlines() if line.startswith("chat,debian13,") and ",UP," not in line]


def test_support_bundle_holds_no_secret(fleet):
    done = fleet.run(f"{PLAY}support_bundle -i inventory --limit gpu3 -e vllm_support_dir=vllm-support")
    assert done.rc == 0, done.output
    (path,) = (fleet.folder / "vllm-support").iterdir()
    content = gzip.decompress(path.read_bytes())
    # They are on the node.
    for secret in SECRETS:
        assert fleet.hosts["debian13"].run(f"grep -rq {secret} /etc/vllm").rc == 0
        assert secret.encode() not in content
        assert secret not in done.output
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "agent/status.json",
        "agent/metrics.txt",
        "agent/log.txt",
        "host/df.txt",
        "host/meminfo.txt",
        "host/processes.txt",
        "instances/chat/log.txt",
        "instances/chat/metrics.txt",
        "instances/etc/vllm/instances/chat.yaml",
        "gpu/health.json",
        "units/etc/systemd/system/vllm@.service",
        "state/var/lib/vllm/health/chat.json",
        "manifest.json",
    } <= names
    assert fleet.on("debian13", "ls /var/tmp | grep -c vllm-support || true") == "0"


def test_recover_takes_the_least_that_helps(fleet):
    # A stopped one, one that was given up, one whose server has left something, and one whose port is taken.
    fleet.on("debian12", "systemctl stop vllm@second.one")

    def given_up():
        fleet.on("debian12", "systemctl kill --signal=KILL vllm@chat 2>/dev/null || true")
        return fleet.agent("debian12", "chat")["quarantine"]

    fleet.wait(given_up)
    fleet.on("debian13", "systemctl stop vllm@second.one vllm@chat")
    mark = "--setenv=INFEROPS_VLLM_INSTANCE"
    fleet.on("debian13", f"systemd-run --unit=orphan {mark}=second.one sleep 3600")
    fleet.on("debian13", f"systemd-run --unit=stranger {mark}=second sleep 3600")
    fleet.on("debian13", "systemd-run --unit=thief python3 -m http.server 8000")
    fleet.wait(lambda: fleet.hosts["debian13"].socket("tcp://0.0.0.0:8000").is_listening)

    foretold = fleet.run(f"{RECOVER} --check")
    for sentence in (
        "second.one: start, for it is stopped",
        "chat: release, for it is quarantined",
        "second.one: kill leftovers, for its servers have left sleep",
        "chat: nothing, for its port is taken; port 8000 is held by python3",
    ):
        assert sentence in foretold.words
    assert fleet.hosts["debian13"].service("orphan").is_running
    assert not fleet.hosts["debian12"].service("vllm@second.one").is_running

    done = fleet.run(RECOVER)
    assert done.rc != 0
    assert "debian13: chat: port 8000 is held by python3" in done.words
    assert done.changed == {"debian12": 1, "debian13": 1}
    assert [fleet.agent("debian12", name)["serves"] for name in ("chat", "second.one")] == [True, True]
    assert fleet.agent("debian13", "second.one")["serves"]
    assert not fleet.hosts["debian13"].service("orphan").is_running
    assert fleet.hosts["debian13"].service("stranger").is_running
    assert fleet.hosts["debian13"].service("thief").is_running

    fleet.on("debian13", "systemctl stop thief stranger")
    asked = f"{RECOVER} --limit gpu3 -e recover_gpu_reset=true -e recover_reboot=true"
    done = fleet.run(asked)
    assert (done.rc, done.changed["debian13"]) == (0, 1), done.output
    done = fleet.run(RECOVER)
    assert (done.rc, set(done.changed.values())) == (0, {0}), done.output


def test_uninstall_asks_first(fleet):
    done = fleet.run(f"{PLAY}uninstall -i inventory")
    assert done.rc != 0
    assert "say -e vllm_uninstall=yes if that is meant" in done.words
    assert fleet.agent("debian12", "chat")["serves"]


def test_uninstall_leaves_nothing(fleet):
    fleet.run(UNINSTALL, "--check")
    assert fleet.agent("debian13", "chat")["serves"]
    done = fleet.run(UNINSTALL)
    assert done.rc == 0, done.output
    assert fleet.hosts["debian13"].file("/var/lib/vllm/models").exists
    assert fleet.agent("debian12", "chat")["serves"]
    assert fleet.run(UNINSTALL).changed == {"debian13": 0}
    done = fleet.run(UNINSTALL_ALL)
    assert done.rc == 0, done.output
    for name in fleet.nodes:
        assert fleet.on(name, "find / -xdev -iname '*vllm*' -not -path '/srv/*' -not -path '/proc/*'") == ""
        assert fleet.on(name, "grep -l vllm /etc/passwd /etc/group /etc/cron.d/* || true") == ""
        assert fleet.on(name, "pgrep -fl '[v]llm|VLL[M]::' || true") == ""
        assert fleet.on(name, "systemctl list-units --all --plain --no-legend 'vllm*'") == ""
        assert fleet.on(name, "find /var/lib/vllm /var/cache/vllm 2>/dev/null || true") == ""
    assert fleet.on("lb1", "systemctl is-active haproxy || true") == "inactive"
    assert not fleet.hosts["lb1"].file("/etc/haproxy/haproxy.cfg").exists
    done = fleet.run(UNINSTALL_ALL)
    assert (done.rc, set(done.changed.values())) == (0, {0}), done.output


def test_every_command_of_the_page_was_run(fleet):
    assert fleet.ran == set(fleet.page)
