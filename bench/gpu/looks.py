# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time looks at the GPUs of this host, by NVML and by nvidia-smi, and all that gpu_health does for a verdict."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import nvml
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import NVIDIA_SMI, NVML
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.look import look
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.survey import survey
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import Expectation, Limits, judge
from bench._run import report

DEADLINE_SECONDS = 30


def health() -> None:
    found = survey(DEADLINE_SECONDS)
    judge(found.node, found.events, {}, Expectation(), Limits(), {}, {})


@contextmanager
def answered_by(source: str) -> Iterator[None]:
    """Have nvidia-smi asked, as on a host without nvidia-ml-py, or not."""
    load = nvml.load

    def refuse() -> Any:
        raise nvml.Unusable("left out by the bench")

    nvml.load = load if source == NVML else refuse
    try:
        yield
    finally:
        nvml.load = load


def milliseconds(action: Callable[[], object], times: int) -> tuple[float, float]:
    """The median of so many runs, and the processor time of one, children included."""
    elapsed = []
    before = sum(os.times()[:4])
    for _run in range(times):
        began = time.monotonic()
        action()
        elapsed.append(time.monotonic() - began)
    return statistics.median(elapsed) * 1000, (sum(os.times()[:4]) - before) / times * 1000


def measure(times: int) -> None:
    """Report the median of so many looks of each kind."""
    for source in (NVML, NVIDIA_SMI):
        with answered_by(source):
            node = look(DEADLINE_SECONDS)
            if node.source != source:
                sys.exit(f"bench: {source} does not answer on this host: {node.error or node.fallback}")
            gpus = len(node.gpus)
            for name, action in (("look", lambda: look(DEADLINE_SECONDS)), ("health", health)):
                elapsed, processor = milliseconds(action, times)
                report("gpu", f"{name}-{source}/{gpus}", elapsed, "ms")
                report("gpu", f"{name}-{source}-cpu/{gpus}", processor, "ms")
