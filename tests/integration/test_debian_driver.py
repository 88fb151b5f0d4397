# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with NVIDIA's real library and nvidia-smi, as Debian has them, and no driver that runs."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL = """
sed -i 's/ main$/ main contrib non-free/' /etc/apt/sources.list
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libnvidia-ml1 nvidia-smi
"""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """Name of a container."""
    subprocess.run([REPOSITORY / "script" / "image", "bookworm"], check=True, capture_output=True)
    name = f"inferops-driver-{uuid.uuid4().hex[:8]}"
    start = ["docker", "run", "--detach", "--rm", "--name", name, "inferops/host:bookworm", "sleep", "infinity"]
    subprocess.run(start, check=True, capture_output=True)
    try:
        subprocess.run(["docker", "exec", name, "sh", "-ec", INSTALL], check=True, capture_output=True)
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def ask(host: str, module: str, **arguments: object) -> dict[str, object]:
    """What a module returns."""
    command = ["ansible", "all", "-i", f"{host},", "-c", "community.docker.docker", "-m", f"inferops.vllm.{module}"]
    given = ["-a", json.dumps(arguments)] if arguments else []
    run = subprocess.run([*command, *given], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    answer: dict[str, object] = yaml.safe_load(run.stdout.partition("=>")[2])
    return answer


def test_driver_that_is_not_loaded(host: str) -> None:
    info = ask(host, "gpu_info")
    assert (info["source"], info["gpus"], info["unresponsive"]) == ("", [], False)
    assert str(info["error"]).startswith("nvidia-smi: ")
    health = ask(host, "gpu_health", expect={"count": 2})
    assert health["state"] == "unhealthy"
    assert str(health["msg"]).startswith("the GPUs are unhealthy: none of 2 GPUs can be seen: ")


def test_host_that_expects_no_gpu(host: str) -> None:
    assert ask(host, "gpu_health")["state"] == "ok"
