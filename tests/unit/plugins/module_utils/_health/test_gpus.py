# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of an instance whose GPUs are not well, and that it comes back when they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._driver.faults import KINDS, MODULE_MISSING
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.child import ChildFailed, Unresponsive
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node
from ansible_collections.inferops.vllm.plugins.module_utils._health import gpus as watched
from ansible_collections.inferops.vllm.plugins.module_utils._health.exposition import page
from ansible_collections.inferops.vllm.plugins.module_utils._health.gpus import Gpus
from ansible_collections.inferops.vllm.plugins.module_utils._health.keeper import Keeper
from ansible_collections.inferops.vllm.plugins.module_utils._health.server import agent_check
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import Verdict

FIRST, SECOND = Gpu(0, uuid="GPU-0", pci_address="0000:1b:00"), Gpu(1, uuid="GPU-1", pci_address="0000:43:00")
WELL = Node("nvml", gpus=(FIRST, SECOND))
LOST = replace(WELL, gpus=(FIRST, replace(SECOND, lost=True)))
ASKED = replace(WELL, gpus=(FIRST, replace(SECOND, recovery_action="drain_and_reset")))
EXCHANGED = replace(WELL, driver=Driver("580.95.05", "580.105.08", "580.95.05"))
MIXED = replace(WELL, driver=Driver("580.95.05", "580.95.05", "580.95.05", libcuda="580.105.08"))
FELL = "NVRM: Xid (PCI:0000:43:00): 79, pid=1, name=x, GPU has fallen off the bus."


class Host:
    """Answers in place of the children."""

    def __init__(self) -> None:
        self.node: Node | Exception = WELL
        self.lines: list[tuple[float, str]] = []
        self.faults: dict[str, str] | Exception = {}
        self.installation_looks = 0

    async def ask(self, function: Callable[..., Any], *_arguments: Any) -> Any:
        if function is watched.installation:
            self.installation_looks += 1
            return fail(self.faults) if isinstance(self.faults, Exception) else self.faults
        if function is watched.kernel_log.read:
            return self.lines, ""
        if isinstance(self.node, Node):
            return self.node.to_json()
        return fail(self.node)


def fail(error: Exception) -> NoReturn:
    raise error


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(watched, "ask", host.ask)
    return host


@pytest.fixture
def gpus(log: Any) -> Gpus:
    return Gpus(lambda: {"tiny": [1], "other": [0]}, log)


def serving(keeper: Keeper) -> Keeper:
    asyncio.run(keeper.take(Verdict("ready", "it is ready", "7:7", serves=True), time.monotonic()))
    return keeper


@pytest.mark.parametrize(("seen", "state"), [(LOST, "unhealthy"), (ASKED, "drain")])
def test_gpu_takes_its_own_instances_out_and_they_come_back(
    host: Host, gpus: Gpus, make_keeper: Callable[..., Keeper], log: Any, seen: Node, state: str
) -> None:
    tiny, other = serving(make_keeper("tiny")), serving(make_keeper("other"))
    host.node = seen
    asyncio.run(gpus.look())
    status = tiny.status()
    assert (tiny.ready, status["state"], status["gpu"]["state"]) == (False, "draining", state)
    assert status["evidence"].startswith(f"its GPUs are {state}: GPU 1: ")
    assert agent_check(["tiny"], {"tiny": tiny}) == "down #draining"
    assert other.ready
    assert [(event["gpu"], event["state"]) for event in log.of("gpu")] == [(1, state)]
    host.node = WELL
    asyncio.run(gpus.look())
    assert tiny.ready
    assert [event["state"] for event in log.of("gpu")] == [state, "ok"]


@pytest.mark.parametrize("seen", [LOST, EXCHANGED, MIXED, Unresponsive("no answer")])
def test_nothing_is_restarted_that_could_not_start(
    host: Host, gpus: Gpus, make_keeper: Callable[..., Keeper], runtime: Any, seen: Node | Exception
) -> None:
    keeper = make_keeper("tiny")
    host.node = seen
    asyncio.run(gpus.look())
    asyncio.run(gpus.look())
    hung = Verdict("hung", "it is hung", "7:7", lost=True)
    asyncio.run(keeper.take(hung, time.monotonic()))
    assert runtime.done == []
    host.node = WELL
    asyncio.run(gpus.look())
    asyncio.run(keeper.take(hung, time.monotonic()))
    assert runtime.done == [("kill", "tiny")]


def test_word_of_the_kernel_is_remembered(host: Host, gpus: Gpus) -> None:
    host.lines = [(1.0, FELL)]
    asyncio.run(gpus.look())
    host.lines = []
    asyncio.run(gpus.look())
    assert gpus.of("tiny").state == "unhealthy"
    assert gpus.of("other").state == "ok"


@pytest.mark.parametrize(
    "once",
    [
        ChildFailed("it was killed"),
        Unresponsive("no answer"),
        replace(WELL, source="", error="no permission", code=4),
        replace(WELL, source="", error="driver not loaded", code=9),
        replace(WELL, source="", error="unknown error", code=999),
    ],
)
def test_look_that_fails_says_nothing(host: Host, gpus: Gpus, once: Node | Exception) -> None:
    host.node = LOST
    asyncio.run(gpus.look())
    host.node = once
    asyncio.run(gpus.look())
    assert (gpus.of("tiny").state, gpus.of("other").state) == ("unhealthy", "ok")


def test_driver_that_does_not_answer_twice(host: Host, gpus: Gpus) -> None:
    host.node = Unresponsive("no answer")
    asyncio.run(gpus.look())
    assert gpus.of("tiny").state == "ok"
    asyncio.run(gpus.look())
    assert gpus.of("tiny").state == gpus.of("other").state == "unhealthy"


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_installation_takes_no_server_out_and_is_told_of(
    host: Host, gpus: Gpus, make_keeper: Callable[..., Keeper], log: Any, kind: str
) -> None:
    keeper = serving(make_keeper("tiny", given=(1,)))
    host.faults = {kind: "the driver is not installed well: run this."}
    asyncio.run(gpus.look())
    status = keeper.status()
    assert (keeper.ready, status["state"], status["gpu"]["state"]) == (True, "ready", "degraded")
    assert status["evidence"] == "it is ready; the driver is not installed well: run this."
    assert status["driver"] == host.faults
    assert agent_check(["tiny"], {"tiny": keeper}) == "ready up 100%"
    told = dict(line.rsplit(" ", 1) for line in page([keeper]).splitlines())
    assert {
        fault: told[f'vllm_agent_driver_fault{{name="tiny",fault="{fault}"}}'] == "1" for fault in KINDS
    } == dict.fromkeys(KINDS, False) | {kind: True}
    assert log.of("driver") == [{"event": "driver", "fault": kind, "reason": host.faults[kind]}]


def test_wrong_installation_is_no_matter_to_an_instance_without_gpus(
    host: Host, gpus: Gpus, make_keeper: Callable[..., Keeper]
) -> None:
    keeper = serving(make_keeper("tiny"))
    host.faults = {KINDS[0]: "the driver is not installed well."}
    asyncio.run(gpus.look())
    assert (keeper.status()["driver"], keeper.status()["evidence"]) == ({}, "it is ready")
    assert "driver_fault{" not in page([keeper])


def test_installation_is_looked_at_seldom_and_its_mending_is_seen(
    host: Host, gpus: Gpus, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.faults = {MODULE_MISSING: "the kernel 6.1 is installed without the NVIDIA module."}
    for _look in range(3):
        asyncio.run(gpus.look())
    assert host.installation_looks == 1
    monkeypatch.setattr(watched, "INSTALLATION_SECONDS", 0.0)
    gpus._installation_due = 0.0
    host.faults = ChildFailed("it was killed")
    asyncio.run(gpus.look())
    assert list(gpus.faults) == [MODULE_MISSING], "a look that failed says nothing"
    host.faults = {}
    asyncio.run(gpus.look())
    assert gpus.faults == {}
    assert [event["reason"] for event in log.of("driver")][1:] == ["mended"]


def test_installation_is_read_in_a_child() -> None:
    assert set(asyncio.run(watched.ask(watched.installation))) <= set(KINDS)


def test_instances_without_gpus_have_none_looked_at(monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    async def never(*_arguments: Any) -> Any:
        raise AssertionError("looked")

    monkeypatch.setattr(watched, "ask", never)
    gpus = Gpus(dict, log)

    async def go() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(gpus.run(0.01), 0.1)

    asyncio.run(go())
    assert gpus.of("tiny").state == "ok"


def test_child_is_asked_beside_other_work() -> None:
    async def go() -> tuple[Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        task = asyncio.get_running_loop().create_task(tick())
        answer = await watched.ask(slow)
        task.cancel()
        return answer, ticks

    answer, ticks = asyncio.run(go())
    assert answer == "done"
    assert ticks > 3


def slow() -> str:
    time.sleep(0.3)
    return "done"


def test_child_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.2)
    with pytest.raises(Unresponsive, match=r"no answer from the GPUs in 0\.2 s"):
        asyncio.run(watched.ask(time.sleep, 600))
