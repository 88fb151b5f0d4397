# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the GPUs of a host are fit to serve: sound, right in what they compute, and as fast as they should be."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from .dcgm import NOT_INSTALLED, Diagnosis
from .facts import Gpu, Node
from .smoke import SmokeTest
from .verdict import STATES, NodeVerdict

SLOWER = 0.85
"""Of what its neighbours of the same model do; sound ones differ by a few percent."""
NEIGHBOURS = 3
"""At least so many measure a model: of two nobody knows which is the slow one."""


@dataclass(frozen=True)
class Minimum:
    """What each GPU must reach; None where nothing is asked. Units as in SmokeTest."""

    compute_tflops: float | None = None
    memory_gbps: float | None = None
    to_device_gbps: float | None = None
    from_device_gbps: float | None = None
    peer_gbps: float | None = None


SPEEDS = {field.name: field.name.rpartition("_")[0].replace("_", " ") for field in fields(Minimum)}
UNITS = {"tflops": "TFLOP/s", "gbps": "GB/s"}


def testable(node: Node) -> list[Gpu]:
    """The GPUs that can be had to work: not those that are lost, in parts (MIG), or in the hands of others."""
    return [gpu for gpu in node.gpus if gpu.pci_address and not (gpu.lost or gpu.reset_required or gpu.mig_mode)]


def users(gpus: Collection[Gpu]) -> Iterator[str]:
    """Who would be disturbed, one sentence each."""
    for gpu in gpus:
        for process in gpu.processes or ():
            yield f"GPU {gpu.index} is in use by {process.name or 'a process'} (pid {process.pid})"


def reasons(
    verdict: NodeVerdict,
    fail_on: str,
    tests: Sequence[SmokeTest],
    models: Mapping[int, str],
    minimum: Minimum,
    diagnosis: Diagnosis,
) -> list[str]:
    """Why the host is not accepted, the worst first; none where it is.

    :param fail_on: The mildest verdict that is too bad.
    :param models: Names of the GPUs, by index: only equals are compared.
    """
    found = list(verdict.reasons) if STATES.index(verdict.state) >= STATES.index(fail_on) else []
    for test in tests:
        found += [f"GPU {test.index}: {trouble}" for trouble in _troubles(test, minimum)]
    found += _slow(tests, models)
    found += diagnosis.failures
    if diagnosis.error and diagnosis.error != NOT_INSTALLED:
        found.append(diagnosis.error)
    return found


def _troubles(test: SmokeTest, minimum: Minimum) -> Iterator[str]:
    if test.error:
        yield f"it could not be tested: {test.error}"
    if test.memory_errors:
        yield f"{test.memory_errors} words of its memory did not hold what was written"
    if test.compute_errors:
        yield f"{test.compute_errors} of its matrix products are wrong"
    for speed, words in SPEEDS.items():
        reached, needed = getattr(test, speed), getattr(minimum, speed)
        if needed is not None and not test.error and (reached or 0) < needed:
            unit = UNITS[speed.rpartition("_")[2]]
            yield f"{words} reaches {reached or 0:g} {unit}, and {needed:g} are asked for"


def _slow(tests: Sequence[SmokeTest], models: Mapping[int, str]) -> Iterator[str]:
    for model in sorted(set(models.values())):
        peers = [test for test in tests if models.get(test.index) == model]
        for speed, words in SPEEDS.items():
            values = {test.index: getattr(test, speed) for test in peers if getattr(test, speed) is not None}
            if len(values) < NEIGHBOURS:
                continue
            usual = statistics.median(values.values())
            for index, value in values.items():
                if value < SLOWER * usual:
                    unit = UNITS[speed.rpartition("_")[2]]
                    yield f"GPU {index}: {words} reaches {value:g} {unit}, and its neighbours {usual:g}"
