# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gpu_info and gpu_health tell of hosts with all kinds of GPUs.

The modules run by ansible-playbook, as processes of their own, against tests/doubles/nvml. One run has all cases.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.nvml import fake

REPOSITORY = Path(__file__).resolve().parents[2]
FOREVER = {"recent_seconds": 1e9}
"""The logs of the double are of the first minute after the boot."""
TIMEOUT_SECONDS = 8
LOST, SECOND = "GPU 3: the driver has lost it", "GPU 1"
HUNG, EXCHANGED = "the driver does not answer in time", "the driver was exchanged while in use"


@dataclass(frozen=True)
class Case:
    """A host, and the verdict on it with the beginning of the worst reason."""

    name: str
    state: str
    action: str
    reason: str = ""
    scenario: str = "healthy_2"
    log: str = "quiet"
    expect: dict[str, Any] = field(default_factory=dict)
    source: str = "nvml"
    without: tuple[str, ...] = ()
    """Variables of the double's environment that this host lacks."""
    gpu: dict[str, object] = field(default_factory=dict)
    """What all its GPUs tell otherwise than the scenario has it."""
    pynvml: str | None = None
    """In place of the module."""
    restart_safe: bool = True


SILENT = {"recovery_action": "error 3"}
"""A driver that does not say what it asks for, so that the XIDs count."""
CASES = [
    Case("eight sound GPUs", "ok", "none", scenario="healthy_8", expect={"count": 8, "nvlinks_active": 18}),
    Case("two sound GPUs", "ok", "none", expect={"count": 2, "name": "H100", "ecc_mode": True, "driver": "580"}),
    Case("H200 that serves", "ok", "none", scenario="h200", expect={"count": 1, "name": "H200", "pcie_width": 16}),
    Case("GPU lost", "unhealthy", "reboot", LOST, "lost", expect={"count": 8}),
    Case("reset required", "unhealthy", "reset_gpu", "GPU 1: the driver does not use it", "reset_required"),
    Case("remap pending", "degraded", "reset_when_idle", "GPU 1: a row of its memory", "remap_pending"),
    Case("uncorrectable errors", "degraded", "monitor", "GPU 0: 2 uncorrectable", "uncorrectable_ecc"),
    Case("uncorrectable errors, silent driver", "unhealthy", "reset_gpu", "GPU 0: 2", "uncorrectable_ecc", gpu=SILENT),
    Case("driver asks for a reset", "unhealthy", "reset_gpu", "GPU 1: the driver asks for gpu_reset", "recovery_reset"),
    Case("driver asks for a reboot", "unhealthy", "reboot", "GPU 1: the driver asks for", "recovery_reboot"),
    Case("driver without recovery actions", "ok", "none", scenario="old_driver"),
    Case("throttled", "degraded", "monitor", "GPU 0: 90 C, and it slows down at 89 C", "throttled"),
    Case("MIG", "ok", "none", scenario="mig"),
    Case("orphan", "ok", "none", scenario="orphan"),
    Case("out of step", "degraded", "reboot", EXCHANGED, "driver_mismatch", source="", restart_safe=False),
    Case("driver not loaded", "unhealthy", "inspect", "none of 2 GPUs", "driver_not_loaded", "quiet", {"count": 2}, ""),
    Case("hang", "unhealthy", "reboot", HUNG, "hang", source="", restart_safe=False),
    Case("no nvidia-ml-py", "ok", "none", source="nvidia-smi", pynvml="raise ImportError"),
    Case("another pynvml", "ok", "none", source="nvidia-smi", pynvml=""),
    Case("neither library nor nvidia-smi", "ok", "none", "no GPU", source="", without=("LD_LIBRARY_PATH", "PATH")),
    Case("fewer than the inventory has", "unhealthy", "reboot", "2 of 8 GPUs are there", expect={"count": 8}),
    Case("another model", "degraded", "inspect", "GPU 0: it is a NVIDIA H100", expect={"name": "H200"}),
    Case("older driver", "degraded", "inspect", "driver 580", expect={"driver": "999"}),
    *(
        Case(f"XID {code}", *verdict, scenario="healthy_8", log=f"xid_{code}", gpu=SILENT)
        for code, verdict in {
            13: ("degraded", "check_app", SECOND),
            31: ("degraded", "check_app", SECOND),
            43: ("degraded", "restart_app", SECOND),
            48: ("drain", "reset_gpu", SECOND),
            63: ("ok", "none"),  # the GPU itself says that no remap is pending
            79: ("unhealthy", "reboot", SECOND),
            94: ("degraded", "restart_app", SECOND),
            95: ("unhealthy", "reset_gpu", SECOND),
            119: ("unhealthy", "reset_gpu", SECOND),
            154: ("unhealthy", "reboot", SECOND),
        }.items()
    ),
    Case("XID 95 that the driver has contained", "degraded", "monitor", SECOND, "healthy_8", "xid_95"),
    Case("off the bus without a number", "unhealthy", "reboot", SECOND, "healthy_8", "fallen_off"),
    Case("XIDs from before a reset", "ok", "none", scenario="healthy_8", log="before_reset", gpu=SILENT),
]
TASKS = [
    {
        "inferops.vllm.gpu_info": {"timeout_seconds": TIMEOUT_SECONDS},
        "name": "Look",
        "register": "info",
        "environment": "{{ item.environment }}",
        "loop": "{{ cases }}",
    },
    {
        "inferops.vllm.gpu_health": {
            "expect": "{{ item.expect }}",
            "limits": FOREVER,
            "instances": {"second": [1]},
            "timeout_seconds": TIMEOUT_SECONDS,
        },
        "name": "Judge",
        "register": "health",
        "failed_when": False,
        "environment": "{{ item.environment }}",
        "loop": "{{ cases }}",
    },
    {
        "ansible.builtin.copy": {
            "content": "{{ {'info': info.results, 'health': health.results} | to_json }}",
            "dest": "{{ told }}",
            "mode": "0600",
        },
        "name": "Keep what they told",
    },
]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the modules returned, by the name of the case."""
    folder = tmp_path_factory.mktemp("gpus")
    double = fake.build(folder / "fake")
    cases = []
    for number, case in enumerate(CASES):
        own = folder / str(number)
        own.mkdir()
        scenario = fake.scenario(case.scenario, own)
        fake.edit(scenario, "gpu", **case.gpu)
        environment = fake.environment(double, scenario, fake.kernel_log(case.log, own))
        if case.pynvml is not None:
            (own / "pynvml.py").write_text(case.pynvml)
            environment["PYTHONPATH"] = str(own)
        kept = {name: value for name, value in environment.items() if name not in case.without}
        cases.append({"environment": kept, "expect": case.expect})
    play = {"name": "GPUs", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": TASKS}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    told = str(folder / "told.json")
    words = {"cases": cases, "told": told, "ansible_python_interpreter": sys.executable}
    (folder / "vars.json").write_text(json.dumps(words))
    command = ["ansible-playbook", "-i", "localhost,", "-e", f"@{folder}/vars.json", str(folder / "play.yml")]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(Path(told).read_text())
    return {
        case.name: {"info": info, "health": health}
        for case, info, health in zip(CASES, found["info"], found["health"], strict=True)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(told: dict[str, dict[str, Any]], case: Case) -> None:
    health, info = told[case.name]["health"], told[case.name]["info"]
    assert (health["state"], health["action"]) == (case.state, case.action), health
    assert next(iter(health["reasons"]), "").startswith(case.reason)
    assert (health["source"], info["source"]) == (case.source, case.source)
    assert health["restart_safe"] is case.restart_safe
    assert info["unresponsive"] is (case.scenario == "hang")


def test_trouble_of_a_gpu_is_that_of_its_instances_alone(told: dict[str, dict[str, Any]]) -> None:
    assert told["GPU lost"]["health"]["instances"]["second"]["state"] == "ok"
    assert told["XID 79"]["health"]["instances"]["second"]["state"] == "unhealthy"


def test_facts(told: dict[str, dict[str, Any]]) -> None:
    gpus = told["eight sound GPUs"]["info"]["gpus"]
    assert [gpu["index"] for gpu in gpus] == list(range(8))
    assert {(gpu["name"], gpu["nvlinks_active"], gpu["lost"]) for gpu in gpus} == {("NVIDIA H100 80GB HBM3", 18, False)}
    assert [gpu["lost"] for gpu in told["GPU lost"]["info"]["gpus"]] == [index == 3 for index in range(8)]
    (orphan,) = (process for gpu in told["orphan"]["info"]["gpus"] for process in gpu["processes"])
    assert orphan["used_bytes"] >> 30 == 76


def test_what_a_real_h200_told_is_told_again(told: dict[str, dict[str, Any]]) -> None:
    (gpu,) = told["H200 that serves"]["info"]["gpus"]
    assert (gpu["memory_total_bytes"], gpu["memory_used_bytes"]) == (150754820096, 92098527232)
    assert (gpu["fabric_state"], gpu["recovery_action"], gpu["nvlinks_active"]) == ("not_supported", "none", None)
    unknown = {"nvlink_errors", "nvlinks_active", "nvlinks_inactive", "pages_pending", "pages_retired"}
    assert set(gpu["errors"]) == unknown


def test_nvidia_smi_tells_what_nvml_tells(told: dict[str, dict[str, Any]]) -> None:
    by_nvml, by_smi = told["two sound GPUs"]["info"]["gpus"], told["no nvidia-ml-py"]["info"]["gpus"]
    for one, other in zip(by_nvml, by_smi, strict=True):
        unknown = {*one["errors"], *other["errors"], "errors"}
        assert {name: value for name, value in one.items() if name not in unknown} == {
            name: value for name, value in other.items() if name not in unknown
        }
