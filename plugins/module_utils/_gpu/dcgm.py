# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's own diagnostics, `dcgmi diag`, where DCGM is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .child import ChildFailed, Unresponsive, call, run

FAIL = "fail"
NOT_INSTALLED = "dcgmi is not installed"
SECONDS = {1: 120, 2: 900, 3: 2700, 4: 14400}
"""What a level may take: several times what it does on eight GPUs."""


@dataclass(frozen=True)
class Diagnosis:
    level: int = 0
    """Of the tests that were run; 0 where none were."""
    error: str = ""
    """Why they could not be run, or tell nothing."""
    failures: tuple[str, ...] = ()
    """One sentence for each test that failed."""


def diagnose(level: int) -> Diagnosis:
    """Run the tests of a level, from 1 (seconds) to 4 (hours). Never fails."""
    try:
        code, text, errors = call(run, "dcgmi", "diag", "-r", str(level), "-j", deadline_seconds=SECONDS[level])
    except ChildFailed as error:
        missing = "FileNotFoundError" in str(error)
        return Diagnosis(error=NOT_INSTALLED if missing else f"dcgmi: {error}")
    except Unresponsive:
        return Diagnosis(error=f"dcgmi has not ended in {SECONDS[level]} s")
    try:
        return Diagnosis(level, failures=tuple(failures(text)))
    except ValueError as error:
        words = " ".join((errors or text).split())
        return Diagnosis(error=f"dcgmi ended with exit code {code} and told no result: {words[:300] or error}")


def failures(text: str) -> Iterator[str]:
    """Those in what `dcgmi diag -j` prints, of DCGM 3 or 4; ValueError where it holds no result."""
    document = json.loads(text[text.find("{") : text.rfind("}") + 1])
    # "DCGM Diagnostic" since DCGM 4, "DCGM GPU Diagnostic" before.
    diagnostic = next((value for name, value in document.items() if "Diagnostic" in name), None)
    if not isinstance(diagnostic, dict):
        raise ValueError("it names no tests")
    if "test_categories" not in diagnostic:
        raise ValueError(str(diagnostic.get("runtime_error", "it names no tests")))
    for category in diagnostic["test_categories"]:
        for test in category.get("tests", ()):
            for result in test.get("results", ()):
                if str(result.get("status", "")).lower() == FAIL:
                    yield _sentence(str(test.get("name", "a test")), result)


def _sentence(test: str, result: Mapping[str, Any]) -> str:
    gpu = next((result[name] for name in ("entity_id", "gpu_id", "gpu_ids") if name in result), None)
    warnings = result.get("warnings") or ()
    told = [warnings] if isinstance(warnings, str) else warnings
    words = [str(warning.get("warning", warning) if isinstance(warning, dict) else warning) for warning in told]
    subject = f"DCGM's test {test}" if gpu is None else f"DCGM's test {test} of GPU {gpu}"
    return f"{subject} failed: {'; '.join(words) or 'without a word'}"
