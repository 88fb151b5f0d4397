# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts are accepted, and the sentences that say why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import acceptance
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.acceptance import Minimum
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.dcgm import NOT_INSTALLED, Diagnosis
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Gpu, Node, Process
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.smoke import SmokeTest
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import NodeVerdict

SOUND = SmokeTest(
    0,
    memory_tested_bytes=1 << 30,
    memory_errors=0,
    compute_errors=0,
    compute_tflops=600.0,
    memory_gbps=3000.0,
    to_device_gbps=55.0,
    from_device_gbps=54.0,
    peer_gbps=200.0,
)
WELL, NOT_RUN = NodeVerdict(), Diagnosis()
ASKED = Minimum(compute_tflops=550, memory_gbps=2800, peer_gbps=100)


def judged(
    *tests: SmokeTest,
    verdict: NodeVerdict = WELL,
    diagnosis: Diagnosis = NOT_RUN,
    fail_on: str = "degraded",
) -> list[str]:
    models = {test.index: "H100" for test in tests}
    return acceptance.reasons(verdict, fail_on, tests, models, ASKED, diagnosis)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (SOUND, ""),
        (replace(SOUND, memory_errors=12), "GPU 0: 12 words of its memory did not hold what was written"),
        (replace(SOUND, compute_errors=1), "GPU 0: 1 of its matrix products are wrong"),
        (replace(SOUND, compute_tflops=549.9), "GPU 0: compute reaches 549.9 TFLOP/s, and 550 are asked for"),
        (replace(SOUND, peer_gbps=None), "GPU 0: peer reaches 0 GB/s, and 100 are asked for"),
        (SmokeTest(0, error="out of memory"), "GPU 0: it could not be tested: out of memory"),
    ],
)
def test_one_gpu(test: SmokeTest, reason: str) -> None:
    assert judged(test) == ([reason] if reason else [])


def test_gpu_that_is_slower_than_its_neighbours() -> None:
    slow = replace(SOUND, index=3, to_device_gbps=27.0)
    others = [replace(SOUND, index=index) for index in range(3)]
    assert judged(*others, slow) == ["GPU 3: to device reaches 27 GB/s, and its neighbours 55"]
    assert judged(others[0], slow) == []


def test_models_are_not_compared() -> None:
    tests = [replace(SOUND, index=index, to_device_gbps=55.0 if index < 3 else 27.0) for index in range(4)]
    models = {0: "H100", 1: "H100", 2: "H100", 3: "L4"}
    assert acceptance.reasons(NodeVerdict(), "degraded", tests, models, Minimum(), Diagnosis()) == []


@pytest.mark.parametrize(
    ("state", "fail_on", "accepted"),
    [
        ("degraded", "degraded", False),
        ("degraded", "drain", True),
        ("unhealthy", "drain", False),
        ("ok", "degraded", True),
    ],
)
def test_verdict(state: str, fail_on: str, accepted: bool) -> None:
    verdict = NodeVerdict(state, reasons=("GPU 0: it is so",))
    assert (judged(SOUND, verdict=verdict, fail_on=fail_on) == []) is accepted


@pytest.mark.parametrize(
    ("diagnosis", "reasons"),
    [
        (Diagnosis(error=NOT_INSTALLED), []),
        (Diagnosis(error="dcgmi has not ended in 120 s"), ["dcgmi has not ended in 120 s"]),
        (
            Diagnosis(1, failures=("DCGM's test memory of GPU 0 failed: broken",)),
            ["DCGM's test memory of GPU 0 failed: broken"],
        ),
    ],
)
def test_diagnosis(diagnosis: Diagnosis, reasons: list[str]) -> None:
    assert judged(SOUND, diagnosis=diagnosis) == reasons


def test_who_is_tested_and_who_is_disturbed() -> None:
    well = Gpu(0, pci_address="0000:1b:00", processes=(Process(7, "VLLM::EngineCor"), Process(8)))
    gpus = (well, replace(well, index=1, lost=True), replace(well, index=2, mig_mode=True), Gpu(3))
    assert acceptance.testable(Node("nvml", gpus=gpus)) == [well]
    assert list(acceptance.users([well])) == [
        "GPU 0 is in use by VLLM::EngineCor (pid 7)",
        "GPU 0 is in use by a process (pid 8)",
    ]
