"""One contract, a column of it for each runtime; at the end the table of what held."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import testinfra

SCENARIO = Path(__file__).parent.parent
# The runtimes of a host come after each other, so that each but the first is reached by a switch.
HOSTS = {
    "systemd": "debian12",
    "tmux": "debian12",
    "screen": "debian12",
    "supervisor": "debian13",
    "docker": "debian13",
}
PORTS = {"open": 8000, "second.one": 8001}
AGENT_PORT = 9410
KEY = "molecule-key"


class Node:
    """A host whose instances one runtime keeps."""

    key = KEY
    ports = PORTS

    def __init__(self, runtime):
        self.runtime = runtime
        self.name = HOSTS[runtime]
        self.host = testinfra.get_host(f"docker://inferops-runtimes-{self.name}")
        self.run = self.host.check_output

    def converge(self, *arguments, runtime=None):
        """Run the roles; what changed, by the recap."""
        root = os.environ.get("MOLECULE_PROJECT_DIRECTORY", str(SCENARIO.parent.parent))
        command = [
            "ansible-playbook",
            f"--inventory={SCENARIO.parent}/shared/inventory/",
            f"--limit={self.name}",
            f"--extra-vars=vllm_runtime={runtime or self.runtime}",
            *arguments,
            str(SCENARIO / "converge.yml"),
        ]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{root}/.ansible/collections",
            "ANSIBLE_PIPELINING": "1",
            "MOLECULE_PROJECT_DIRECTORY": root,
            "MOLECULE_SCENARIO_NAME": "runtimes",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        recap = next(line for line in done.stdout.splitlines() if line.startswith(self.name) and "changed=" in line)
        return int(recap.split("changed=")[1].split()[0])

    def reboot(self):
        """As the host itself: nothing is left running, and what is in memory is gone."""
        subprocess.run(
            ["docker", "restart", "--time=30", f"inferops-runtimes-{self.name}"], check=True, capture_output=True
        )

    # The server and its processes

    def main(self, name="open"):
        """The pid by the record; in a container that is another than here."""
        program = "from inferops_vllm._serving.instance import recorded as r; import sys; print(r(sys.argv[1]))"
        return int(self.run("PYTHONPATH=/opt/vllm/lib python3 -c %s %s", program, name))

    def engines(self, name="open"):
        found = self.host.run(
            f"grep -lz '^INFEROPS_VLLM_INSTANCE={name}$' $(grep -l '^VLLM::' /proc/[0-9]*/comm | sed s/comm/environ/)"
        )
        return [int(path.split("/")[2]) for path in found.stdout.split()]

    def marked(self, name="open"):
        found = self.host.run(f"grep -lz '^INFEROPS_VLLM_INSTANCE={name}$' /proc/[0-9]*/environ")
        return [int(path.split("/")[2]) for path in found.stdout.split() if path.split("/")[2].isdigit()]

    def ask(self, port, path, body=None, key=KEY):
        """Text of an answer; OSError where there is none."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        program = (
            "import urllib.request as u; print(u.urlopen(u.Request("
            f"'http://127.0.0.1:{port}{path}', {data}, {headers}), timeout=5).read().decode())"
        )
        answer = self.host.run("python3 -c %s", program)
        if answer.rc:
            raise OSError(answer.stderr[-200:])
        return answer.stdout

    def status(self, name="open"):
        """What the agent says."""
        page = json.loads(self.ask(AGENT_PORT, "/status"))
        return next(found for found in page["instances"] if found["instance"] == name)

    def container(self, name="open"):
        return json.loads(self.run(f"docker inspect vllm-{name}"))[0]

    def instance(self, verb, name="open"):
        return self.run(f"/opt/vllm/bin/vllm-instance {verb} {name}")

    @staticmethod
    def wait(condition, seconds=60):
        """Wait until something holds; what cannot be asked does not hold."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ValueError, AssertionError, StopIteration, RuntimeError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.2)

    def served_by_another(self, old, name="open"):
        """Another server serves, with one engine of its own."""
        self.wait(lambda: self.main(name) != old and self.ask(PORTS[name], "/health") is not None)
        self.wait(lambda: self.status(name)["ready"] and len(self.engines(name)) == 1)


NODES: dict[str, Node] = {}


@pytest.fixture
def node(runtime):
    if runtime not in NODES:
        # One agent sees to the instances of a host, whatever keeps them.
        first = HOSTS[runtime] not in {known.name for known in NODES.values()}
        NODES[runtime] = Node(runtime)
        NODES[runtime].converge(f"--extra-vars=with_agent={first}")
    return NODES[runtime]


def pytest_generate_tests(metafunc):
    runtimes = [runtime for runtime, host in HOSTS.items() if host == metafunc.cls.host]
    metafunc.parametrize("runtime", runtimes, scope="session")


def pytest_collection_modifyitems(items):
    """A runtime after the other, each clause in the order of the file."""
    order = list(HOSTS)
    items.sort(key=lambda item: order.index(item.callspec.params["runtime"]))


def pytest_terminal_summary(terminalreporter):
    cells = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            clause, _bracket, rest = report.nodeid.rpartition("::")[2].partition("[")
            runtime = rest.rstrip("]")
            reason = report.longrepr[2].removeprefix("Skipped: ") if outcome == "skipped" else ""
            cells.setdefault(clause.removeprefix("test_").replace("_", " "), {})[runtime] = {
                "passed": "yes",
                "skipped": f"no: {reason}",
            }.get(outcome, "FAILED")
    lines = [f"| | {' | '.join(HOSTS)} |", "|---" * (len(HOSTS) + 1) + "|"]
    lines += [f"| {clause} | {' | '.join(row.get(name, '-') for name in HOSTS)} |" for clause, row in cells.items()]
    terminalreporter.write_line("\n".join(lines))
    page = os.environ.get("RUNTIMES_PAGE")
    if page:
        path = Path(page)
        head, begin, rest = path.read_text(encoding="utf-8").partition("<!-- contract -->\n")
        _old, end, tail = rest.partition("<!-- end of contract -->\n")
        path.write_text("".join([head, begin, "\n".join(lines), "\n", end, tail]), encoding="utf-8")
