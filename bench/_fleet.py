# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of containers with the vLLM simulator in place of vLLM, bare until a bench runs site.yml on it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench._run import CACHE, run, say

NAME = "inferops-bench"
HOME = CACHE / "bench"
LOG = CACHE / "logs" / "bench-hosts.log"
WHEELS, MODEL, INVENTORY = HOME / "wheels", HOME / "model", HOME / "inventory.json"


@contextmanager
def fleet(nodes: int) -> Iterator[Path]:
    """Give the inventory of that many nodes and a load balancer; whatever happens, nothing is left of them."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    remove()
    try:
        create(nodes)
        yield INVENTORY
    finally:
        remove()


def create(nodes: int) -> None:
    say(f"making {nodes} + 1 hosts")
    MODEL.mkdir(parents=True)
    (MODEL / "config.json").write_text("{}\n", encoding="utf-8")
    INVENTORY.write_text(json.dumps(inventory(nodes), indent=2), encoding="utf-8")
    run(LOG, sys.executable, "tests/doubles/simulator/build.py", WHEELS)
    run(LOG, "script/image", "bookworm")
    run(LOG, "ansible-playbook", "-i", INVENTORY, "bench/hosts.yml")


def remove() -> None:
    containers = docker("ps", "--all", "--quiet", "--filter", f"name=^{NAME}-")
    if containers:
        docker("rm", "--force", "--volumes", *containers)
    if docker("network", "ls", "--quiet", "--filter", f"name=^{NAME}$"):
        docker("network", "rm", NAME)
    shutil.rmtree(HOME, ignore_errors=True)


def docker(*arguments: str) -> list[str]:
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def inventory(nodes: int) -> dict[str, Any]:
    """The hosts, and the words of the simulator's double life as vLLM."""
    return {
        "all": {
            "hosts": {
                "localhost": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                },
            },
            "children": {
                "bench_hosts": {
                    "children": {"vllm_nodes": {}, "load_balancers": {}},
                    "vars": {
                        "ansible_connection": "community.docker.docker",
                        "ansible_host": NAME + "-{{ inventory_hostname }}",
                        "ansible_python_interpreter": "/usr/bin/python3",
                        "ansible_become": False,
                        "container_image": "inferops/host:bookworm",
                    },
                },
                "load_balancers": {"hosts": {"lb1": {"container_address": "172.30.58.10"}}},
                "vllm_nodes": {
                    "hosts": {f"node{n}": {"container_address": f"172.30.58.{10 + n}"} for n in range(1, nodes + 1)},
                    "vars": {
                        "container_volumes": [f"{WHEELS}:/srv/wheels:ro"],
                        "preflight_driver_min": 0,
                        "preflight_venv_disk_gb": 0,
                        "vllm_address": "{{ container_address }}",
                        "vllm_instances": [{"name": "tiny", "model": str(MODEL), "port": 8000, "gpus": [0]}],
                        "vllm_venv_compiler": False,
                        "vllm_venv_find_links": ["/srv/wheels"],
                        "vllm_venv_requirements_file": str(WHEELS / "requirements.txt"),
                    },
                },
            },
        }
    }
