import time

import pytest

BUDGET = 5


def alone(fault):
    """It takes the agent away from the other faults."""
    fault.alone = True
    return fault


def restarts_of(before, after):
    return after["restarts"] - before["restarts"]


def kills_of(before, after):
    return after["actions"].get("kill", 0) - before["actions"].get("kill", 0)


def heals(node, name, inject):
    """Inject a fault, and wait for the one kill that heals it; how long that took."""
    before = node.ready(name)
    began = time.monotonic()
    inject()
    noticed = node.wait(lambda: kills_of(before, node.status(name)))
    after = node.healed(name, before)
    assert (restarts_of(before, after), kills_of(before, after)) == (1, 1)
    return {"acted after": round(noticed, 1), "serves after": round(time.monotonic() - began, 1)}


# Beside each other, each on an instance of its own


def killed_api_server(node):
    before = node.ready("api")
    began = time.monotonic()
    node.run(f"kill -9 {node.server('api')}")
    after = node.healed("api", before)
    # The runtime has done it by itself.
    assert (restarts_of(before, after), kills_of(before, after)) == (1, 0)
    return {"serves after": round(time.monotonic() - began, 1)}


def killed_engine(node):
    return heals(node, "engine", lambda: node.run(f"kill -9 {node.simulator('engine')['engine_pid']}"))


def stopped_engine_idle(node):
    return heals(node, "idle", lambda: node.run(f"kill -STOP {node.simulator('idle')['engine_pid']}"))


def stopped_engine_at_work(node):
    engine = node.simulator("working")["engine_pid"]
    with node.flood("working", 4):
        node.wait(lambda: node.simulator("working")["in_flight"] >= 4)
        # Their clients stay connected, which keeps a server from its end by SIGTERM.
        return heals(node, "working", lambda: node.run(f"kill -STOP {engine}"))


def stopped_api_server(node):
    return heals(node, "deaf", lambda: node.run(f"kill -STOP {node.server('deaf')}"))


def memory_limit(node):
    before = node.ready("memory")
    with node.memory_limit("memory"):
        began = time.monotonic()
        # A request that takes more memory than there is.
        node.send("memory", "x" * (32 << 20))
        node.wait(lambda: node.status("memory")["server"] != before["server"])
    after = node.healed("memory", before)
    assert restarts_of(before, after) >= 1
    assert not after["quarantine"]
    return {"serves after": round(time.monotonic() - began, 1)}


def lost_model(node):
    """It cannot start: after its budget it is left stopped, until somebody starts it."""
    began = time.monotonic()
    node.run("mv /srv/fragile/config.json /srv/fragile/lost")
    node.run("systemctl restart --no-block vllm@fragile")
    node.wait(lambda: node.status("fragile")["quarantine"])
    seconds = time.monotonic() - began
    assert node.status("fragile")["state"] == "failed"
    node.wait(lambda: node.run("systemctl show --property ActiveState --value vllm@fragile") in ("inactive", "failed"))
    time.sleep(3)
    assert node.server("fragile") == 0
    node.run("mv /srv/fragile/lost /srv/fragile/config.json")
    node.run("systemctl start vllm@fragile")
    assert node.ready("fragile")["quarantine"] == ""
    told = [told["event"] for told in node.told() if told["instance"] == "fragile"]
    assert (told.count("quarantine"), told.count("released")) == (1, 1)
    return {"quarantined after": round(seconds, 1)}


def stolen_port(node):
    """However often the launcher refuses to start it: that it cannot start is not its fault."""
    node.run("systemctl stop vllm@port")
    node.wait(lambda: node.status("port")["state"] == "down")
    # More than one look later it is as somebody wanted it.
    time.sleep(5)
    assert (node.server("port"), node.status("port")["evidence"]) == (0, "it is stopped")
    thief = (
        "import socket, time; s = socket.create_server(('', 8007)); open('/run/thief', 'w').write('x'); time.sleep(600)"
    )
    node.run(f'systemd-run --unit=thief python3 -c "{thief}"')
    node.wait(lambda: node.host.file("/run/thief").exists)
    node.run("systemctl start --no-block vllm@port")
    refused = "systemctl show --property NRestarts --value vllm@port"
    node.wait(lambda: int(node.run(refused)) > BUDGET)
    assert node.status("port")["evidence"].startswith("it cannot start: port 8007 is held by python3")
    node.run("systemctl stop thief")
    began = time.monotonic()
    status = node.ready("port")
    assert (status["quarantine"], status["actions"]) == ("", {})
    return {"serves after": round(time.monotonic() - began, 1)}


def saturation(node):
    """A queue that grows, and /health that takes 40 s: nobody may touch it."""
    before = node.ready("saturated")
    node.simulator("saturated", saturate={"health_seconds": 40, "metrics_seconds": 10})
    seen = set()
    with node.flood("saturated", 100, pause=0.5):
        end = time.monotonic() + 45
        while time.monotonic() < end:
            seen.add(node.status("saturated")["state"])
            time.sleep(0.5)
        assert node.simulator("saturated", saturate={})["in_flight"] > 10
    after = node.ready("saturated")
    assert seen <= {"ready", "busy"}
    assert (after["server"], after["restarts"], after["actions"]) == (before["server"], before["restarts"], {})


def slow_load(node):
    """Longer than a load may stall, and it does not stall."""
    with node.load_of("slow", 20):
        node.run("systemctl restart vllm@slow")
        node.wait(lambda: node.status("slow")["state"] == "loading")
        loading = node.status("slow")
        after = node.ready("slow")
    assert (after["server"], after["restarts"], after["actions"]) == (loading["server"], loading["restarts"], {})


def stalled_load(node):
    """Long before its start grace of 600 s is over."""
    with node.load_of("stalled", 500):
        node.run("systemctl restart vllm@stalled")
        node.wait(lambda: node.status("stalled")["state"] == "loading")
    before = node.status("stalled")
    main = node.server("stalled")
    began = time.monotonic()
    node.run(f"kill -STOP {main} $(pgrep --parent {main})")
    noticed = node.wait(lambda: kills_of(before, node.status("stalled")))
    assert restarts_of(before, node.healed("stalled", before)) == 1
    return {"acted after": round(noticed, 1), "serves after": round(time.monotonic() - began, 1)}


# One after another


@alone
def killed_agent(node):
    old = node.agent()
    began = time.monotonic()
    node.run(f"kill -9 {old}")
    node.wait(lambda: node.status("api")["ready"] and node.agent() not in (0, old))
    return {"answers after": round(time.monotonic() - began, 1)}


@alone
def drained_instance(node):
    node.ready("api")
    assert node.asked_by_load_balancers("api") == 200
    assert node.agent_check("api") == "ready up 100%"
    node.run("touch /var/lib/vllm/drain/api")
    for _when in ("at once", "after a restart of the agent"):
        assert node.asked_by_load_balancers("api") == 503
        assert (node.agent_check("api"), node.agent_check("api open")) == ("drain", "drain")
        assert node.status("api")["draining"]
        node.run("systemctl restart vllm-node-agent")
        node.wait(lambda: node.status("api")["serves"])
    node.run("rm /var/lib/vllm/drain/api")
    assert node.ready("api")["state"] == "ready"
    assert node.agent_check("api") == "ready up 100%"


@alone
def unwell_gpu(node):
    """It takes its own instance out and no other; what is in flight may finish, and nothing is restarted in vain."""
    noted = {}
    with node.gpus("api") as gpus:
        before = node.ready("api")
        for told, state in (({"recovery_action": "4"}, "drain"), ({"handle": "error 15"}, "unhealthy")):
            with node.flood("api", 2):
                node.wait(lambda: node.simulator("api")["in_flight"] >= 2)
                began = time.monotonic()
                gpus.tell(**told)
                node.wait(lambda: node.asked_by_load_balancers("api") == 503)
                noted[f"{state} noticed after"] = round(time.monotonic() - began, 1)
                status = node.status("api")
                assert (status["state"], status["gpu"]["state"]) == ("draining", state)
                assert node.agent_check("api") == "down #draining"
                assert node.asked_by_load_balancers("engine") == 200
                assert node.simulator("api")["in_flight"] >= 2
            gpus.heal()
            after = node.ready("api")
            assert (after["server"], after["actions"]) == (before["server"], before["actions"])
        # A start would fail as long as the GPU is lost.
        gpus.tell(handle="error 15")
        node.wait(lambda: node.status("api")["gpu"]["state"] == "unhealthy")
        engine = node.simulator("api")["engine_pid"]
        node.run(f"kill -STOP {engine}")
        node.wait(lambda: node.status("api")["state"] == "hung" or not node.status("api")["serves"])
        time.sleep(3)
        assert kills_of(before, node.status("api")) == 0
        gpus.heal()
        node.healed("api", before)
        assert kills_of(before, node.status("api")) == 1
    node.ready("api")
    return noted


@alone
def stopped_cron(node):
    node.run("systemctl stop cron")
    try:
        return heals(node, "idle", lambda: node.run(f"kill -STOP {node.simulator('idle')['engine_pid']}"))
    finally:
        node.run("systemctl start cron")


@alone
def full_disks(node):
    """Neither a log nor a state file can be written, and it heals all the same."""
    places = ("/var/lib/vllm/health", "/var/log/vllm")
    for place in places:
        # Room for the directory itself alone.
        node.run(f"mount -t tmpfs -o size=4k,nr_inodes=1 full {place}")
    try:
        node.run("systemctl restart vllm-node-agent")
        found = heals(node, "idle", lambda: node.run(f"kill -STOP {node.simulator('idle')['engine_pid']}"))
    finally:
        for place in places:
            node.run(f"umount {place}")
        node.run("systemctl restart vllm-node-agent")
    assert '"not saved: No space left on device"' in node.run("journalctl --unit=vllm-node-agent --output=cat")
    return found


@alone
def stopped_agent(node):
    """Found out by systemd's watchdog, or by cron if that comes first."""
    old = node.agent()
    began = time.monotonic()
    node.run(f"kill -STOP {old}")
    node.wait(lambda: node.agent() not in (0, old) and node.status("api")["ready"], 200)
    return {"answers after": round(time.monotonic() - began, 1)}


@alone
def disabled_agent(node):
    """Cron alone heals a crash and a hang."""
    for name in ("engine", "idle"):
        node.ready(name)
    node.run("systemctl disable --now vllm-node-agent")
    try:
        engine, idle = node.server("engine"), node.server("idle")
        began = time.monotonic()
        # It would end by itself after five seconds; it cannot while it is stopped.
        node.run(f"kill -STOP {engine} && kill -9 {node.simulator('idle')['engine_pid']}")
        healed = {}
        for name, old in (("idle", idle), ("engine", engine)):
            node.wait(lambda name=name, old=old: node.server(name) not in (0, old) and node.serves(name), 300)
            healed[f"{name} serves after"] = round(time.monotonic() - began, 1)
        assert '"action": "kill"' in node.run("cat /var/log/vllm/health_check.log")
    finally:
        node.run("systemctl enable --now vllm-node-agent")
    node.wait(lambda: node.status("idle")["ready"])
    return healed


FAULTS = [
    killed_api_server,
    killed_engine,
    stopped_engine_idle,
    stopped_engine_at_work,
    stopped_api_server,
    memory_limit,
    lost_model,
    stolen_port,
    saturation,
    slow_load,
    stalled_load,
    killed_agent,
    drained_instance,
    unwell_gpu,
    stopped_cron,
    full_disks,
    stopped_agent,
    disabled_agent,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault(host, fault, outcomes):
    name = next(name for name, injected in outcomes if injected is fault and host.backend.name in name)
    seconds, noted = outcomes[name, fault].result()
    print(f"{seconds:.0f} s {noted or ''}")


def test_hooks_are_told_beside_one_that_hangs(host):
    told = host.check_output("journalctl --identifier=told --output=cat --no-pager")
    assert '"event": "restart"' in told
    assert '"event": "recovered"' in told
    log = host.check_output("journalctl --unit=vllm-node-agent --output=cat --no-pager")
    assert '"hook": "sleep", "error": "killed after 5 s"' in log
    assert '"hook": "127.0.0.1", "error": "ConnectionRefusedError' in log


def test_secrets_are_in_no_log(host):
    assert host.file("/etc/vllm/health.json").mode == 0o600
    assert "geheim" in host.file("/etc/vllm/health.json").content_string
    assert "geheim" not in host.check_output("journalctl --no-pager")
    assert "geheim" not in host.check_output("cat /var/log/vllm/health_check.log")


def test_log_is_rotated(host):
    assert host.run("logrotate --debug /etc/logrotate.d/vllm-health-check").rc == 0


def test_no_mail_server_came_along(host):
    assert not host.package("exim4-base").is_installed
