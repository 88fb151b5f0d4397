# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is wrong with an inventory or a host stops in the role preflight, by one sentence, and nothing has changed.

Each case runs the role by ansible-playbook against a real host in a container.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
HOST_FILES = Path(__file__).with_suffix("").parent / "wrong_input"
HOST = "node1"
CONTAINER = f"inferops-wrong-input-{HOST}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAY = [{"name": "Check", "hosts": "all", "gather_facts": False, "roles": ["inferops.vllm.preflight"]}]
TINY = {"name": "tiny", "model": "org/tiny", "revision": COMMIT, "port": 8000, "gpus": [0]}
OTHER = {**TINY, "name": "other", "port": 8001, "gpus": [1]}
# Neither GPUs nor 12 GB to spare are asked of the machine that runs the tests.
GOOD = {"vllm_instances": [TINY], "preflight_driver_min": 0, "preflight_venv_disk_gb": 0}
SERVER = "import http.server as h; h.HTTPServer(('', 8000), h.BaseHTTPRequestHandler).serve_forever()"


@dataclass
class Case:
    """An input, and the problems that it earns, one a line without the host in front."""

    name: str
    problems: str
    words: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    """Words that a group says of which the host is a member."""
    before: str = ""
    """A command that makes the host what the case needs, and one that undoes it."""
    after: str = ""


def instances(*items: Any) -> dict[str, Any]:
    return {"vllm_instances": list(items)}


def args(**options: Any) -> dict[str, Any]:
    return instances({**TINY, "args": {option.replace("_", "-"): value for option, value in options.items()}})


WRONG = [
    Case(
        "port twice",
        "vllm_instances[1].port is 8000, the port of vllm_instances[0] too: give each instance a port of its own.",
        instances(TINY, {**OTHER, "port": 8000}),
    ),
    Case(
        "name twice",
        'vllm_instances[1].name is "tiny", the name of vllm_instances[0] too: give each instance a name of its own.',
        instances(TINY, {**OTHER, "name": "tiny"}),
    ),
    Case(
        "port of the node agent",
        "vllm_instances[0].port is 9500, the port of the node agent:"
        " give the instance another port, or the agent one by health_check_agent_port.",
        {**instances({**TINY, "port": 9500}), "health_check_agent_port": 9500},
    ),
    Case(
        "time of the health check out of range",
        "health_check_look_seconds is -1, not a number of seconds above 0 and of a year at most:"
        " write a number of seconds above 0 and of a year at most.",
        {"health_check_look_seconds": -1},
    ),
    Case(
        "hook without an address",
        "health_check_hooks[0] must have either a command or a url: write one of them.",
        {"health_check_hooks": [{"events": ["quarantine"]}]},
    ),
    Case(
        "GPU beyond share 1",
        "vllm_instances[1].gpus is [0], but GPU 0 would give 1.42 of its memory, tiny 0.5 and other 0.92:"
        " lower gpu-memory-utilization in their args to 1 in sum, or use other GPUs.",
        instances({**TINY, "args": {"gpu-memory-utilization": 0.5}}, {**OTHER, "gpus": [0]}),
    ),
    Case(
        "unknown option",
        "vllm_instances[0].args.max-model-length is 1024, but vllm serve 0.33.0 has no such option:"
        " did you mean max-model-len?",
        args(max_model_length=1024),
    ),
    Case(
        "false for an option without --no-",
        "vllm_instances[0].args.disable-log-stats is false, which vLLM would drop in silence,"
        " as the option has no --no- form: drop the line.",
        args(disable_log_stats=False),
    ),
    Case(
        "option of the role",
        "vllm_instances[0].args.port is set, but is no option for args: say it as the instance's port.",
        args(port=8000),
    ),
    Case(
        "key among the options",
        "vllm_instances[0].args.api-key is set, but is no option for args:"
        " list the keys in vllm_api_keys, which keeps them out of the logs.",
        args(api_key="secret"),
    ),
    Case(
        "unknown runtime",
        'vllm_runtime is "runit", an unknown runtime: use systemd, supervisor, docker, tmux or screen.',
        {"vllm_runtime": "runit"},
    ),
    Case(
        "no Docker engine",
        "vllm_docker_install is false, but no Docker engine answers on the host:"
        " start Docker on the host, or have the role install it.",
        {"vllm_runtime": "docker", "vllm_docker_install": False},
    ),
    Case(
        "image and base image",
        'vllm_docker_image is "vllm/vllm-openai:v0.33.0", beside vllm_docker_base_image:'
        " an image that brings vLLM is not built: set one of them.",
        {
            "vllm_runtime": "docker",
            "vllm_docker_image": "vllm/vllm-openai:v0.33.0",
            "vllm_docker_base_image": "debian:bookworm-slim",
        },
    ),
    Case(
        "too few GPUs",
        "vllm_instances[0].gpus is [0], but tensor-parallel-size 2 x pipeline-parallel-size 2 needs 4 GPUs:"
        " list that many, or lower the sizes in args.",
        args(tensor_parallel_size=2, pipeline_parallel_size=2),
    ),
    Case(
        "model directory missing",
        'vllm_instances[0].model is "./models/none", but the controller has no directory {playbook_dir}/models/none:'
        " put the model there, or give the id of one on the hub (org/name).",
        instances({**TINY, "model": "./models/none"}),
    ),
    Case(
        "model directory without config.json",
        'vllm_instances[0].model is "./models/empty", but {playbook_dir}/models/empty has no config.json:'
        " give the directory that holds the model's files themselves.",
        instances({**TINY, "model": "./models/empty"}),
    ),
    Case(
        "no revision",
        "vllm_instances[0].revision is missing, and vllm_instances[0].model is the hub id org/tiny:"
        " pin the model to a commit, 40 hexadecimal digits in quotes,"
        " or write ./org/tiny if it is meant as a directory beside the playbook.",
        instances({**TINY, "revision": None}),
    ),
    Case(
        "revision that is no commit",
        'vllm_instances[0].revision is "main", not a commit:'
        " pin the model to a commit, 40 hexadecimal digits in quotes.",
        instances({**TINY, "revision": "main"}),
    ),
    Case(
        "name that is no unit's",
        'vllm_instances[0].name is "my model", which cannot name a unit:'
        " use letters, digits, '.', '_' and '-', a letter or a digit first, 64 at most.",
        instances({**TINY, "name": "my model"}),
    ),
    Case(
        "port out of range",
        "vllm_instances[0].port is 80, not a port that vLLM takes: give a number from 1024 to 65535, without quotes.",
        instances({**TINY, "port": 80}),
    ),
    Case(
        "environment that is no mapping of strings",
        "vllm_instances[0].env.HF_TOKEN is not a string: write 'NAME: \"value\"', numbers in quotes too.",
        instances({**TINY, "env": {"HF_TOKEN": 12345}}),
    ),
    Case(
        "instances that are no list",
        'vllm_instances is "tiny", not a list: write a list of mappings, each with name, model and port.',
        {"vllm_instances": "tiny"},
    ),
    Case(
        "no instances at all",
        "vllm_instances is missing: list the instances that the host serves, or write [] for none.",
        {"vllm_instances": None},
    ),
    Case(
        "version that is a number",
        'vllm_version is 0.33, not a release of vLLM: give a release in quotes, such as "0.33.0".',
        {"vllm_version": 0.33},
    ),
    Case(
        "unsupported distribution",
        "the distribution is Fedora Linux 41, which is not supported:"
        " use Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9.",
        before="cp -P /etc/os-release /tmp/kept && rm /etc/os-release"
        " && printf 'ID=fedora\nVERSION_ID=41\nPRETTY_NAME=\"Fedora Linux 41\"' > /etc/os-release",
        after="rm /etc/os-release && mv /tmp/kept /etc/os-release",
    ),
    Case(
        "too little disk",
        'vllm_root is "/opt/vllm", but the disk of /opt/vllm has {free} GB left'
        " for the environment of vLLM 0.33.0 (1e+06 GB): free 1e+06 GB more, or use another disk.",
        {"preflight_venv_disk_gb": 1_000_000},
    ),
    Case(
        "/dev/shm too small",
        "/dev/shm has 1.07 GB, but 7 instances need 1.17 GB:"
        " mount it with a larger size (of a container: --shm-size), or lower preflight_shm_min_gb.",
        instances(*({**TINY, "name": f"tiny{n}", "port": 8000 + n, "gpus": [n]} for n in range(7))),
    ),
    Case(
        "port held by another program",
        "vllm_instances[0].port is 8000, but python3 (pid {pid}) listens there:"
        " stop that program, or give the instance another port.",
        before=f'python3 -c "{SERVER}" & echo $! > /tmp/pid; sleep 1',
        after="kill $(cat /tmp/pid); rm /tmp/pid",
    ),
    Case(
        "no GPU",
        'vllm_variant is "cuda", but the host has no NVIDIA driver loaded: install driver 580 or newer.\n'
        "vllm_instances[0].gpus is [0], but the host has no GPU at all: name GPUs that it has.",
        {"preflight_driver_min": 580},
    ),
    Case(
        "groups that contradict each other",
        'vllm_variant is "cuda" in group gpu and "cpu" in group lab, and Ansible takes one of them without a word:'
        " set it in one of them, or for the host, or raise the ansible_group_priority of one.",
        groups={"gpu": {"vllm_variant": "cuda"}, "lab": {"vllm_variant": "cpu"}},
    ),
    Case(
        "everything at once",
        'vllm_user is "root", and a server must not run as root: name a user of its own, such as vllm.\n'
        "vllm_instances[0].port is missing: give a number from 1024 to 65535, without quotes.\n"
        "/dev/shm has 1.07 GB, but an instance needs 2 GB:"
        " mount it with a larger size (of a container: --shm-size), or lower preflight_shm_min_gb.",
        {**instances({**TINY, "port": None}), "vllm_user": "root", "preflight_shm_min_gb": 2},
    ),
]
RIGHT = [
    Case("good inventory", ""),
    Case("model directory", "", instances({**TINY, "model": "./models/tiny", "revision": None})),
    Case("nothing to serve", "", instances()),
    Case(
        "groups of which one ranks higher",
        "",
        groups={"gpu": {"vllm_variant": "cuda", "ansible_group_priority": 10}, "lab": {"vllm_variant": "cpu"}},
    ),
    Case(
        "port held by the instance itself",
        "",
        before=f'python3 -c "{SERVER}" --config /etc/vllm/instances/tiny.yaml & echo $! > /tmp/pid; sleep 1',
        after="kill $(cat /tmp/pid); rm /tmp/pid",
    ),
]


def on_host(command: str) -> str:
    ran = subprocess.run(
        ["docker", "exec", CONTAINER, "sh", "-c", command], check=True, capture_output=True, text=True, timeout=60
    )
    return ran.stdout


def ansible_playbook(inventory: Path, playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(HOST_FILES / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".ansible/collections"),
    }
    command = ["ansible-playbook", "-i", str(inventory), str(playbook), *options]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, env=environment, cwd=REPOSITORY
    )


@pytest.fixture(scope="session")
def _host() -> Iterator[None]:
    remove = ["docker", "rm", "-f", CONTAINER]
    subprocess.run(remove, check=False, capture_output=True, timeout=60)
    try:
        subprocess.run([str(REPOSITORY / "script/image"), "bookworm"], check=True, timeout=600)
        created = ansible_playbook(HOST_FILES / "inventory.yml", HOST_FILES / "host.yml")
        assert created.returncode == 0, created.stdout + created.stderr
        yield
    finally:
        subprocess.run(remove, check=False, capture_output=True, timeout=60)
        network = ["docker", "network", "rm", "inferops-wrong-input"]
        subprocess.run(network, check=False, capture_output=True, timeout=60)


def write_inventory(folder: Path, case: Case) -> Path:
    (folder / "models/tiny").mkdir(parents=True)
    (folder / "models/tiny/config.json").write_text("{}")
    (folder / "models/empty").mkdir()
    host = yaml.safe_load((HOST_FILES / "inventory.yml").read_text())["all"]["children"]["wrong_input"]["hosts"][HOST]
    children = {name: {"hosts": {HOST: {}}, "vars": words} for name, words in case.groups.items()}
    inventory = {"all": {"hosts": {HOST: host}, "vars": {**GOOD, **case.words}, "children": children}}
    (folder / "inventory.yml").write_text(yaml.safe_dump(inventory))
    (folder / "playbook.yml").write_text(yaml.safe_dump(PLAY))
    return folder / "inventory.yml"


def snapshot() -> tuple[list[str], str]:
    """All of the host's files that differ from its image, and those in memory."""
    changed = subprocess.run(["docker", "diff", CONTAINER], check=True, capture_output=True, text=True, timeout=60)
    return sorted(changed.stdout.splitlines()), on_host("find /tmp /dev/shm /root -printf '%p %M %s\n'")


def check(case: Case, folder: Path, *options: str) -> dict[str, Any]:
    """The role's result, once nothing has been seen to change."""
    inventory = write_inventory(folder, case)
    if case.before:
        on_host(case.before)
    try:
        before = snapshot()
        ran = ansible_playbook(inventory, folder / "playbook.yml", *options)
        assert snapshot() == before
    finally:
        if case.after:
            on_host(case.after)
    assert ran.returncode == (2 if case.problems else 0), ran.stdout + ran.stderr
    return last_result(ran)


def last_result(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    output = json.loads(ran.stdout)
    assert output["stats"][HOST]["changed"] == 0
    result: dict[str, Any] = output["plays"][0]["tasks"][-1]["hosts"][HOST]
    return result


def filled(problems: str, said: str, folder: Path) -> str:
    """Problems with what only the run itself knows."""
    words = said.split()
    known = {
        "playbook_dir": folder,
        "pid": said.partition("(pid ")[2].partition(")")[0],
        "free": words[words.index("left") - 2] if "left" in words else "",
    }
    for name, value in known.items():
        problems = problems.replace(f"{{{name}}}", str(value))
    return problems


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_wrong_input(case: Case, tmp_path: Path) -> None:
    result = check(case, tmp_path)
    expected = filled(case.problems, result["msg"], tmp_path)
    assert result["problems"] == [f"{HOST}: {problem}" for problem in expected.splitlines()]
    assert result["msg"] == "\n".join(result["problems"])
    assert "secret" not in result["msg"]


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_right_input(case: Case, tmp_path: Path) -> None:
    result = check(case, tmp_path)
    assert result["problems"] == []
    assert result["host"]["distribution"]["id"] == "debian"


@pytest.mark.usefixtures("_host")
def test_check_mode_does_the_same(tmp_path: Path) -> None:
    result = check(WRONG[0], tmp_path, "--check", "--diff")
    assert result["msg"] == f"{HOST}: {WRONG[0].problems}"


@pytest.mark.usefixtures("_host")
def test_hosts_that_contradict_each_other(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path, Case("peers", ""))
    words = yaml.safe_load(inventory.read_text())
    second = {**words["all"]["hosts"][HOST], **instances({**TINY, "model": "org/big"})}
    words["all"]["hosts"]["node2"] = second
    inventory.write_text(yaml.safe_dump(words))
    before = snapshot()
    result = last_result(ansible_playbook(inventory, tmp_path / "playbook.yml"))
    assert snapshot() == before
    assert result["problems"] == [
        f'node2: vllm_instances[0] serves "org/big" at {COMMIT[:12]} by the name tiny, which stands for "org/tiny"'
        f" at {COMMIT[:12]} on {HOST} behind the same load balancer: serve one model, or give the two different names."
    ]


def test_host_that_is_down(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path, WRONG[0])
    inventory.write_text(inventory.read_text().replace(CONTAINER, "inferops-wrong-input-none"))
    result = last_result(ansible_playbook(inventory, tmp_path / "playbook.yml"))
    wrong, down_too = result["problems"]
    assert wrong == f"{HOST}: {WRONG[0].problems}"
    assert down_too.startswith(f"{HOST}: the host itself could not be checked: ")
