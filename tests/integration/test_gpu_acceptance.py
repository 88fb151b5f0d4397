# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts playbooks/gpu_acceptance.yml lets join, and its line of JSON, against tests/doubles/nvml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.nvml import fake

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A host, and how the reasons begin for which it is not accepted."""

    name: str
    reason: str = ""
    scenario: str = "healthy_2"
    gpu: dict[str, object] = field(default_factory=dict)
    """What its second GPU does otherwise than the scenario has it."""
    words: dict[str, Any] = field(default_factory=dict)
    """Of the inventory."""
    tested: int = 2
    arguments: tuple[str, ...] = ()
    idle: bool = True
    """Whether nobody computes on any of them, whatever the scenario says."""


CASES = [
    Case("eight sound GPUs", scenario="healthy_8", words={"vllm_gpu_expect": {"count": 8}}, tested=8),
    Case("check mode", tested=0, arguments=("--check",)),
    Case("GPU lost", "GPU 3: the driver has lost it", "lost", tested=7),
    Case("memory that forgets", "GPU 1: 12 words of its memory", gpu={"memory_errors": 12}),
    Case("wrong products", "GPU 1: 14 of its matrix products are wrong", gpu={"compute_errors": 7}),
    Case("call that fails", "GPU 1: it could not be tested: cuMemAlloc", gpu={"cuMemAlloc": "error 2"}),
    Case(
        "slow memory",
        "GPU 1: memory reaches 1000 GB/s, and 2000 are asked for",
        gpu={"cuda_memory_gbps": 1000},
        words={"vllm_gpu_minimum": {"memory_gbps": 2000}},
    ),
    Case("GPU in use", "GPU 0 is in use by a process (pid 4242)", "orphan", tested=0, idle=False),
    Case("fewer than expected", "2 of 8 GPUs are there", words={"vllm_gpu_expect": {"count": 8}}),
    Case("driver not loaded", "no GPU can be seen", "driver_not_loaded", tested=0),
]


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("fake"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_acceptance(case: Case, double: Path, tmp_path: Path) -> None:
    scenario = fake.scenario(case.scenario, tmp_path)
    fake.edit(scenario, "gpu1", **case.gpu)
    for gpu in fake.Scenario(scenario).gpus if case.idle else ():
        fake.edit(scenario, gpu, processes="")
    words = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"vllm_nodes": {"hosts": {"new": words}, "vars": case.words}}))
    environment = {**os.environ, **fake.environment(double, scenario, fake.kernel_log("quiet", tmp_path))}
    command = ["ansible-playbook", "-i", str(inventory), *case.arguments, "playbooks/gpu_acceptance.yml"]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    (line,) = (json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"host"'))
    assert (line["host"], line["ok"], run.returncode) == ("new", not case.reason, 2 if case.reason else 0), run.stdout
    assert any(reason.startswith(case.reason) for reason in line["reasons"] or [""]), line["reasons"]
    assert len(line["gpus"]) == case.tested
    assert line["dcgm"]["failures"] == []
