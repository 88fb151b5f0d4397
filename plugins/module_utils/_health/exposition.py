# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's own metrics, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from .._driver import faults
from .._gpu import verdict as gpu_verdicts
from .._serving.verdict import STATES
from . import policy
from .keeper import PROBE_BUCKETS, Keeper

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[str, float]]


def page(keepers: Iterable[Keeper]) -> str:
    """Metrics of every instance; the label is `name`, for `instance` is what Prometheus calls the agent."""
    return "".join(f"{line}\n" for line in _lines(list(keepers)))


PLAIN: tuple[tuple[str, str, str, Callable[[Keeper], float]], ...] = (
    ("ready", "gauge", "Whether a load balancer should send requests there.", lambda keeper: keeper.ready),
    ("draining", "gauge", "Whether the drain flag is set.", lambda keeper: keeper.draining),
    (
        "quarantined",
        "gauge",
        "Whether it is left stopped, its budget of restarts spent.",
        lambda keeper: bool(keeper.quarantine),
    ),
    (
        "restarts_total",
        "counter",
        "Restarts that the agent has made or seen its runtime make.",
        lambda keeper: keeper.restarts,
    ),
    (
        "look_age_seconds",
        "gauge",
        "Time since the last look.",
        lambda keeper: round(time.monotonic() - keeper.looked_at, 3),
    ),
    (
        "late_looks_total",
        "counter",
        "Looks that were due an interval and more before they were made.",
        lambda keeper: keeper.late_looks,
    ),
)
"""Families with one sample for each instance."""


def _lines(keepers: list[Keeper]) -> Iterator[str]:
    yield from _family("verdict", "gauge", "1 for what the instance is, 0 for what it is not.", _verdicts(keepers))
    yield from _family("gpu", "gauge", "1 for what the GPUs of the instance are, 0 for what not.", _gpus(keepers))
    yield from _family(
        "driver_fault", "gauge", "1 for what is wrong with the driver as installed, 0 for what not.", _faults(keepers)
    )
    yield from _family("actions_total", "counter", "What was done to the instance.", _actions(keepers))
    for name, kind, documentation, value in PLAIN:
        yield from _family(name, kind, documentation, [(_labels(keeper), value(keeper)) for keeper in keepers])
    yield from _probe_seconds(keepers)


def _verdicts(keepers: list[Keeper]) -> Samples:
    for keeper in keepers:
        present = keeper.status()["state"]
        for state in STATES:
            yield _labels(keeper, verdict=state), state == present


def _gpus(keepers: list[Keeper]) -> Samples:
    for keeper in keepers:
        for state in gpu_verdicts.STATES if keeper.instance.gpus else ():
            yield _labels(keeper, state=state), state == keeper.gpu.state


def _faults(keepers: list[Keeper]) -> Samples:
    for keeper in keepers:
        for kind in faults.KINDS if keeper.instance.gpus else ():
            yield _labels(keeper, fault=kind), kind in keeper.driver_faults


def _actions(keepers: list[Keeper]) -> Samples:
    for keeper in keepers:
        for action in policy.ACTIONS:
            if action:
                yield _labels(keeper, action=action), keeper.actions[action]


def _probe_seconds(keepers: list[Keeper]) -> Iterator[str]:
    name = "vllm_agent_probe_seconds"
    yield f"# HELP {name} Time that a look took."
    yield f"# TYPE {name} histogram"
    for keeper in keepers:
        count = 0
        for bound in PROBE_BUCKETS:
            count += keeper.look_seconds[bound]
            yield f"{name}_bucket{_labels(keeper, le=str(bound))} {count}"
        yield f"{name}_bucket{_labels(keeper, le='+Inf')} {keeper.looks}"
        yield f"{name}_count{_labels(keeper)} {keeper.looks}"
        yield f"{name}_sum{_labels(keeper)} {keeper.look_seconds_sum:.6f}"


def _family(name: str, kind: str, documentation: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP vllm_agent_{name} {documentation}"
    yield f"# TYPE vllm_agent_{name} {kind}"
    for labels, value in samples:
        yield f"vllm_agent_{name}{labels} {value:g}"


def _labels(keeper: Keeper, **more: str) -> str:
    # Names of instances are such as a unit may have, so nothing needs to be escaped.
    pairs = {"name": keeper.instance.name, **more}
    return "{" + ",".join(f'{label}="{value}"' for label, value in pairs.items()) + "}"
