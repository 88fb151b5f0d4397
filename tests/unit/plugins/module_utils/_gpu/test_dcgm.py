# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `dcgmi diag -j` says, in the forms of DCGM 3 and 4, and where it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import dcgm
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.dcgm import Diagnosis

# Test runners have threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PASSED_4 = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": 0, "status": "Pass"}
FAILED_4 = {
    **PASSED_4,
    "entity_id": 1,
    "status": "Fail",
    "warnings": [{"error_id": 16, "warning": "row remap failure"}],
}
FAILED_3 = {"gpu_ids": "2", "status": "Fail", "warnings": "row remap failure"}


def document(name: str, *results: dict[str, Any]) -> str:
    tests = [{"name": "memory", "results": results}, {"name": "software", "results": [{"status": "Skip"}]}]
    return json.dumps({name: {"test_categories": [{"category": "Hardware", "tests": tests}]}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (document("DCGM Diagnostic", PASSED_4), []),
        (document("DCGM Diagnostic", PASSED_4, FAILED_4), ["DCGM's test memory of GPU 1 failed: row remap failure"]),
        (document("DCGM GPU Diagnostic", FAILED_3), ["DCGM's test memory of GPU 2 failed: row remap failure"]),
        (document("DCGM GPU Diagnostic", {"status": "FAIL"}), ["DCGM's test memory failed: without a word"]),
        (f"Successfully ran diagnostic.\n{document('DCGM Diagnostic', PASSED_4)}\n", []),
    ],
)
def test_failures(text: str, expected: list[str]) -> None:
    assert list(dcgm.failures(text)) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{}", "it names no tests"),
        ('{"DCGM Diagnostic": {"runtime_error": "no GPU"}}', "no GPU"),
        ('{"DCGM Diagnostic": []}', "it names no tests"),
    ],
)
def test_no_result(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(dcgm.failures(text))


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "dcgmi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "dcgmi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_diagnose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told").write_text(document("DCGM Diagnostic", FAILED_4))
    program(tmp_path, monkeypatch, f'[ "$*" = "diag -r 2 -j" ] && cat {tmp_path}/told; exit 226')
    assert dcgm.diagnose(2) == Diagnosis(2, failures=("DCGM's test memory of GPU 1 failed: row remap failure",))


def test_engine_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo 'Error: unable to establish a connection' >&2; exit 255")
    told = "dcgmi ended with exit code 255 and told no result: Error: unable to establish a connection"
    assert dcgm.diagnose(1) == Diagnosis(error=told)


def test_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcgm, "SECONDS", {1: 0.3})
    program(tmp_path, monkeypatch, "sleep 600")
    assert dcgm.diagnose(1) == Diagnosis(error="dcgmi has not ended in 0.3 s")


def test_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dcgm.diagnose(1) == Diagnosis(error="dcgmi is not installed")
