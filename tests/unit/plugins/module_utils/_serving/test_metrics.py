# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics page is read as Prometheus reads it, and whatever else comes is survived."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.inferops.vllm.plugins.module_utils._serving import metrics
from ansible_collections.inferops.vllm.plugins.module_utils._serving.metrics import Engine

PAGE = (Path(__file__).parent / "metrics_0.32.txt").read_bytes()
STEPS = b"vllm:iteration_tokens_total_count"


def test_page_of_the_real_server() -> None:
    assert metrics.parse(PAGE) == {"0": Engine(steps=4.0, running=0.0, waiting=0.0, asleep=False)}


def test_engine_at_work() -> None:
    page = PAGE.replace(b'num_requests_running{engine="0",model_name="tiny"} 0.0', b"num_requests_running 3.0")
    assert metrics.parse(page)["0"].in_flight is False, "a sample without labels is another engine's"
    page = PAGE.replace(
        b'num_requests_waiting{engine="0",model_name="tiny"} 0.0', b'num_requests_waiting{engine="0"} 2'
    )
    assert metrics.parse(page)["0"] == Engine(steps=4.0, waiting=2.0)
    assert metrics.parse(page)["0"].in_flight is True


def test_sleeping_engine() -> None:
    page = PAGE.replace(b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0')
    assert metrics.parse(page)["0"].asleep is True


def test_page_without_statistics_has_no_engine() -> None:
    """As with --disable-log-stats: nothing to go by is nothing, not an engine that stands still."""
    assert metrics.parse(b"\n".join(line for line in PAGE.split(b"\n") if b"vllm:" not in line)) == {}


def test_several_api_servers_tell_of_one_engine() -> None:
    """Each has its part of the requests, told apart by its pid."""
    page = b"".join(b'vllm:num_requests_running{engine="0",pid="%d"} 2\n' % pid for pid in (7, 8)) + STEPS + b" 1\n"
    page += STEPS + b'{engine="0",model_name="m"} 5\n'
    assert metrics.parse(page) == {"": Engine(1.0), "0": Engine(5.0, running=4.0)}


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\0" * 1000,
        b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>",
        b'{"detail": "Not Found"}',
        STEPS,
        STEPS + b"{",
        STEPS + b'{engine="0"',
        STEPS + b'{engine="0"}',
        STEPS + b'{engine="0"} ',
        STEPS + b'{engine="0"} many',
        STEPS + b'{engine="0"} 0x10',
        STEPS + b'{engine="0"} NaN',
        STEPS + b'{engine="0"} +Inf',
        STEPS + b'{engine="0"} -1',
        STEPS + b'{engine="0"} \xd9\xa1',
        STEPS + b"_total 5",
        b"# " + STEPS + b'{engine="0"} 4',
        b"x " + STEPS + b'{engine="0"} 4',
    ],
)
def test_nothing_of_what_is_no_page(page: bytes) -> None:
    assert metrics.parse(page) == {}


def test_torn_page() -> None:
    """A page cut anywhere tells less; it never tells of other engines."""
    for end in range(0, len(PAGE), 7):
        assert metrics.parse(PAGE[:end]).keys() <= {"0"}


def test_huge_pages_are_read_fast() -> None:
    pages = [
        STEPS + b"{" + b"}" * (4 << 20),
        STEPS + b"{" + b'engine="' * (1 << 19),
        STEPS + b"{" + b',engine="\\' * (1 << 18) + b"} 1",
        STEPS + b"{}" + b" " * (4 << 20),
        (STEPS + b'{engine="0"} 1\n') * (1 << 16),
        b"".join(STEPS + b'{engine="%d"} 1\n' % number for number in range(1 << 15)),
    ]
    started = time.monotonic()
    for page in pages:
        metrics.parse(page)
    assert time.monotonic() - started < 5


VALUES = st.integers(0, 1 << 40).map(float) | st.floats(0, 1e300) | st.floats()
NAMES = st.sampled_from((metrics.STEPS, metrics.RUNNING, metrics.WAITING, metrics.AWAKE, "kv_cache_usage_perc"))
LABELS = st.sampled_from(["0", "1", "10", "", "a,b", 'a"b', "a\\", "a}b", "a\nb", " ", 'engine="0"', "é"]) | st.text(
    st.characters(codec="utf-8"), max_size=5
)
SAMPLES = st.lists(st.tuples(NAMES, LABELS, LABELS, VALUES), max_size=20, unique_by=lambda sample: sample[:2])


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)


def written(name: str, engine: str, model: str, value: float) -> str:
    state = ',sleep_state="awake"' if name == metrics.AWAKE else ""
    return f'vllm:{name}{{engine="{escaped(engine)}",model_name="{escaped(model)}"{state}}} {value}\n'


def engines_as_prometheus_reads(page: str) -> dict[str, Engine]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if math.isfinite(sample.value) and sample.value >= 0:
                found[sample.labels["engine"]][sample.name.removeprefix("vllm:")] = sample.value
    return {
        engine: Engine(
            values[metrics.STEPS],
            values.get(metrics.RUNNING, 0.0),
            values.get(metrics.WAITING, 0.0),
            values.get(metrics.AWAKE) == 0,
        )
        for engine, values in found.items()
        if metrics.STEPS in values
    }


@given(SAMPLES)
def test_read_as_prometheus_reads(samples: list[tuple[str, str, str, float]]) -> None:
    page = "".join(written(*sample) for sample in samples)
    read = {unescaped(label): engine for label, engine in metrics.parse(page.encode()).items()}
    assert read == engines_as_prometheus_reads(page)


def test_real_page_read_as_prometheus_reads() -> None:
    families = {family.name: family for family in text_string_to_metric_families(PAGE.decode())}
    steps = [
        sample.value for sample in families["vllm:iteration_tokens_total"].samples if sample.name.endswith("_count")
    ]
    assert [engine.steps for engine in metrics.parse(PAGE).values()] == steps


@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(PAGE)), st.binary(max_size=30)))
def test_any_bytes(change: bytes | tuple[int, bytes]) -> None:
    page = change if isinstance(change, bytes) else PAGE[: change[0]] + change[1] + PAGE[change[0] + 9 :]
    for engine in metrics.parse(page).values():
        assert all(math.isfinite(value) and value >= 0 for value in (engine.steps, engine.running, engine.waiting))
