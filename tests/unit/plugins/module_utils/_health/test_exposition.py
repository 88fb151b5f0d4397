# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's metrics, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.inferops.vllm.plugins.module_utils._health import exposition
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Keeper
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import STATES, Verdict

MakeKeeper = Callable[..., Keeper]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(*keepers: Keeper) -> Samples:
    """Every sample of the page, by its name and its labels."""
    families = list(text_string_to_metric_families(exposition.page(keepers)))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, metric: str, **labels: str) -> float:
    return samples[f"vllm_agent_{metric}", tuple(sorted({"name": "tiny", **labels}.items()))]


def test_every_family_has_its_kind(make_keeper: MakeKeeper) -> None:
    families = text_string_to_metric_families(exposition.page([make_keeper()]))
    assert {family.name: family.type for family in families} == {
        "vllm_agent_verdict": "gauge",
        "vllm_agent_ready": "gauge",
        "vllm_agent_draining": "gauge",
        "vllm_agent_quarantined": "gauge",
        "vllm_agent_gpu": "gauge",
        "vllm_agent_driver_fault": "gauge",
        "vllm_agent_actions": "counter",
        "vllm_agent_restarts": "counter",
        "vllm_agent_look_age_seconds": "gauge",
        "vllm_agent_late_looks": "counter",
        "vllm_agent_probe_seconds": "histogram",
    }


def test_one_verdict_holds_for_each_instance(make_keeper: MakeKeeper) -> None:
    tiny, other = make_keeper(), make_keeper("other-1.x")
    tiny.verdict = Verdict("busy", "answers", serves=True)
    samples = read(tiny, other)
    assert {state: value(samples, "verdict", verdict=state) for state in STATES} == {
        state: float(state == "busy") for state in STATES
    }
    assert value(samples, "verdict", verdict="unknown", name="other-1.x") == 1
    assert (value(samples, "ready"), value(samples, "ready", name="other-1.x")) == (1, 0)


def test_a_drained_instance_is_one_that_drains(make_keeper: MakeKeeper, folder: Path) -> None:
    keeper = make_keeper()
    keeper.verdict = Verdict("ready", "answers", serves=True)
    (folder / "drain" / "tiny").write_text("")
    samples = read(keeper)
    assert value(samples, "verdict", verdict="draining") == 1
    assert (value(samples, "ready"), value(samples, "draining")) == (0, 1)


def test_what_was_done_is_counted(make_keeper: MakeKeeper) -> None:
    keeper = make_keeper()
    keeper.actions["kill"] = 2
    keeper.restarts, keeper.late_looks = 3, 4
    keeper._memory = replace(keeper._memory, quarantine="it hangs")
    samples = read(keeper)
    assert [value(samples, "actions_total", action=action) for action in ("restart", "kill", "quarantine")] == [0, 2, 0]
    assert (value(samples, "restarts_total"), value(samples, "late_looks_total")) == (3, 4)
    assert value(samples, "quarantined") == 1


def test_histogram_adds_up(make_keeper: MakeKeeper) -> None:
    keeper = make_keeper()
    for seconds in (0.001, 0.3, 0.3, 99.0):
        keeper.looks += 1
        keeper.look_seconds[next((bound for bound in (0.005, 0.5) if seconds <= bound), float("inf"))] += 1
        keeper.look_seconds_sum += seconds
    samples = read(keeper)
    bounds = ["0.005", "0.25", "0.5", "10.0", "+Inf"]
    assert [value(samples, "probe_seconds_bucket", le=bound) for bound in bounds] == [1, 1, 3, 3, 4]
    assert value(samples, "probe_seconds_count") == 4
    assert abs(value(samples, "probe_seconds_sum") - 99.601) < 1e-6


def test_a_node_without_instances_has_a_page() -> None:
    assert read() == {}
