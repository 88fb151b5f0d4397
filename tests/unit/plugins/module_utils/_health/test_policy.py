# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy: its rules one by one, then random histories of a world in which its actions have effects."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._health import memory as memories
from ansible_collections.inferops.vllm.plugins.module_utils._health import policy
from ansible_collections.inferops.vllm.plugins.module_utils._health.memory import Memory
from ansible_collections.inferops.vllm.plugins.module_utils._health.policy import Decision, decide
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import STATES, Verdict

SETTINGS = Settings()
BUDGET = 5
WINDOW = 3600
NOW = 10_000.0
KNOWN = Memory(server="1:1", serving_since=NOW - 100)
READY = Verdict("ready", "it answers", "1:1", serves=True)
HUNG = Verdict("hung", "no engine step for 20 s", "1:1", lost=True)
FAILED = Verdict("failed", "three requests in a row failed", "1:1")
GIVEN_UP = Verdict("failed", "its runtime has given up on it")


def kinds(decision: Decision) -> list[str]:
    return [event.kind for event in decision.events]


def spent(*ages: float, **words: object) -> Memory:
    """The memory of a server that was restarted so many seconds ago, and has not served steadily since."""
    return replace(KNOWN, restarts=tuple(NOW - age for age in ages), **{"serving_since": None, **words})


def quarantined() -> Memory:
    memory = decide(spent(*[1000] * BUDGET, runtime_restarts=BUDGET), HUNG, NOW, SETTINGS).memory
    assert memory.quarantine
    return memory


# Rules, one by one


@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        (HUNG, "kill"),
        (replace(HUNG, lost=False), "kill"),
        (FAILED, "restart"),
        (replace(FAILED, lost=True), "kill"),
        (GIVEN_UP, "restart"),
        (replace(GIVEN_UP, lost=True), "restart"),
        *((Verdict(state, "", "1:1", lost=True), "") for state in STATES if state not in ("hung", "failed")),
        (Verdict("down", "it is stopped"), ""),
        (Verdict("unknown", "its runtime does not answer"), ""),
    ],
)
def test_action_for_a_verdict(verdict: Verdict, action: str) -> None:
    decision = decide(KNOWN, verdict, NOW, SETTINGS)
    assert decision.action == action
    assert kinds(decision) == (["restart"] if action else [])
    if action:
        assert decision.reason == decision.events[0].reason == f"{action}, 1 of 5: {verdict.evidence}"
        assert decision.memory.restarts == (NOW,)


def test_one_action_for_one_server_then_a_kill() -> None:
    first = decide(KNOWN, FAILED, NOW, SETTINGS)
    waiting = decide(first.memory, FAILED, NOW + 149.9, SETTINGS)
    assert (waiting.action, waiting.reason) == ("", "the last restart has yet to take effect")
    assert decide(waiting.memory, FAILED, NOW + 150, SETTINGS).action == "kill"


def test_what_the_runtime_gave_up_is_restarted_after_a_kill_without_waiting_for_its_effect() -> None:
    killed = decide(KNOWN, HUNG, NOW, SETTINGS).memory
    assert decide(killed, GIVEN_UP, NOW + 9, SETTINGS).action == ""
    assert decide(killed, GIVEN_UP, NOW + 10, SETTINGS).action == "restart"


def test_what_the_runtime_gave_up_is_never_killed() -> None:
    restarted = decide(KNOWN, GIVEN_UP, NOW, SETTINGS).memory
    assert decide(restarted, GIVEN_UP, NOW + 149, SETTINGS).action == ""
    assert decide(restarted, GIVEN_UP, NOW + 150, SETTINGS).action == "restart"


def test_an_action_that_a_mended_server_outlived_counts_no_more() -> None:
    memory = decide(KNOWN, FAILED, NOW, SETTINGS).memory
    first = decide(memory, READY, NOW + 10, SETTINGS)
    mended = decide(first.memory, READY, NOW + 310, SETTINGS)
    assert (kinds(first), kinds(mended)) == ([], ["recovered"])
    assert decide(mended.memory, FAILED, NOW + 320, SETTINGS).action == "restart"


@pytest.mark.parametrize(("restarts", "pause"), [(1, 10), (2, 20), (3, 40), (4, 80)])
def test_backoff_doubles(restarts: int, pause: float) -> None:
    memory = spent(*range(restarts - 1, -1, -1))
    early = decide(memory, HUNG, NOW + pause - 0.1, SETTINGS)
    assert (early.action, early.memory.restarts) == ("", memory.restarts)
    assert early.reason == f"restart {restarts + 1} of 5 waits for {pause} s after the last one"
    assert decide(memory, HUNG, NOW + pause, SETTINGS).action == "kill"


@pytest.mark.parametrize(("restarts", "pause"), [(0, 0), (5, 160), (6, 300), (7, 300), (1000, 300)])
def test_backoff_has_an_end(restarts: int, pause: float) -> None:
    assert policy.backoff_seconds(restarts, SETTINGS) == pause


def test_spent_budget_means_quarantine_once_repeated_until_it_is_gone() -> None:
    decision = decide(spent(*[1000] * BUDGET), HUNG, NOW, SETTINGS)
    assert (decision.action, kinds(decision)) == ("quarantine", ["quarantine"])
    assert decision.reason == "left stopped after 5 restarts: no engine step for 20 s"
    waiting = decide(decision.memory, HUNG, NOW + 149.9, SETTINGS)
    assert waiting.action == ""
    again = decide(waiting.memory, HUNG, NOW + 150, SETTINGS)
    assert (again.action, kinds(again)) == ("quarantine", [])
    assert decide(again.memory, HUNG, NOW + 299.9, SETTINGS).action == ""
    for verdict in (Verdict("down", "it is stopped"), GIVEN_UP):
        assert decide(again.memory, verdict, NOW + 1000, SETTINGS).action == ""


def test_last_restart_is_given_its_time_before_a_quarantine() -> None:
    memory = decide(spent(*[1000] * (BUDGET - 1)), HUNG, NOW, SETTINGS).memory
    assert decide(memory, HUNG, NOW + 149, SETTINGS).action == ""
    assert decide(memory, HUNG, NOW + 150, SETTINGS).action == "quarantine"


@pytest.mark.parametrize(
    ("age", "served", "left"),
    [(WINDOW, 400, 1), (WINDOW + 1, 400, 0), (WINDOW + 1, 300, 0), (WINDOW + 1, 299, 1), (10 * WINDOW, 0, 1)],
)
def test_restart_is_forgotten_when_old_and_mended(age: float, served: float, left: int) -> None:
    memory = spent(age, serving_since=NOW - served)
    assert len(decide(memory, READY, NOW, SETTINGS).memory.restarts) == left


@pytest.mark.parametrize(("steady_at", "left"), [(NOW - WINDOW - 2, 1), (NOW - WINDOW - 1, 1), (NOW - WINDOW, 0)])
def test_service_before_a_restart_mends_nothing(steady_at: float, left: int) -> None:
    memory = decide(spent(WINDOW + 1, steady_at=steady_at), Verdict("loading", "", "1:1"), NOW, SETTINGS).memory
    assert len(memory.restarts) == left


def test_mended_once_is_mended_though_it_fails_later() -> None:
    memory = decide(spent(1000, serving_since=NOW - 300), READY, NOW, SETTINGS).memory
    assert decide(memory, HUNG, NOW + WINDOW, SETTINGS).memory.restarts == (NOW + WINDOW,)


def test_break_in_service_begins_it_anew() -> None:
    memory = decide(spent(WINDOW, serving_since=NOW - 299), Verdict("unknown", "", "1:1"), NOW, SETTINGS).memory
    memory = decide(memory, READY, NOW + 1, SETTINGS).memory
    assert decide(memory, READY, NOW + 300.9, SETTINGS).memory.restarts
    assert not decide(memory, READY, NOW + 301, SETTINGS).memory.restarts


def test_memory_of_a_server_that_serves_on_does_not_change() -> None:
    memory = decide(spent(100, serving_since=NOW - 400), READY, NOW, SETTINGS).memory
    assert decide(memory, READY, NOW + 50, SETTINGS).memory == memory


# Who started it


@pytest.mark.parametrize("seen_gone", [False, True])
def test_restart_of_the_runtime_counts(seen_gone: bool) -> None:
    memory = decide(KNOWN, Verdict("down", ""), NOW - 2, SETTINGS).memory if seen_gone else KNOWN
    decision = decide(memory, Verdict("loading", "", "2:2", restarts=1), NOW, SETTINGS)
    assert (decision.action, decision.memory.restarts, kinds(decision)) == ("", (NOW,), ["restart"])
    several = decide(decision.memory, Verdict("loading", "", "5:5", restarts=4), NOW + 5, SETTINGS)
    assert len(several.memory.restarts) == 4


def test_another_server_has_yet_to_serve_steadily() -> None:
    memory = replace(KNOWN, serving_since=NOW - 299)
    for after in (0, 2):
        verdict = replace(READY, server="2:2", restarts=1)
        memory = decide(memory, verdict, NOW + after, SETTINGS).memory
    assert (memory.serving_since, memory.steady_at) == (NOW, None)


def test_server_that_one_look_missed_is_not_gone() -> None:
    memory = KNOWN
    for verdict in (Verdict("down", ""), READY, Verdict("loading", "", "3:3", restarts=2)):
        memory = decide(memory, verdict, NOW, SETTINGS).memory
    assert memory.restarts == (NOW, NOW)


@pytest.mark.parametrize(("restarts", "counted"), [(1, 1), (2, 2)])
def test_restart_that_we_asked_for_counts_once(restarts: int, counted: int) -> None:
    memory = decide(KNOWN, HUNG, NOW, SETTINGS).memory
    memory = decide(memory, Verdict("loading", "", "2:2", restarts=restarts), NOW + 5, SETTINGS).memory
    assert len(memory.restarts) == counted
    again = decide(memory, replace(HUNG, server="2:2", restarts=restarts), NOW + 60, SETTINGS)
    assert again.action == "kill"


def test_our_graceful_restart_is_no_start_by_hand() -> None:
    known = replace(KNOWN, runtime_restarts=3, restarts=(NOW - 50,))
    memory = decide(known, FAILED, NOW, SETTINGS).memory
    for verdict in (Verdict("down", ""), Verdict("loading", "", "2:2")):
        memory = decide(memory, verdict, NOW + 5, SETTINGS).memory
    assert (memory.server, memory.restarts, memory.acted) == ("2:2", (NOW - 50, NOW), "")


@pytest.mark.parametrize("way", [[Verdict("down", "", restarts=5)], [Verdict("down", "", restarts=1)], []])
@pytest.mark.parametrize("restarts", [0, 2])
def test_start_by_hand_begins_anew(way: list[Verdict], restarts: int) -> None:
    memory = quarantined()
    for verdict in way:
        memory = decide(memory, verdict, NOW + 10, SETTINGS).memory
    decision = decide(memory, Verdict("loading", "it loads", "2:2", restarts=restarts), NOW + 500, SETTINGS)
    assert (decision.action, kinds(decision)) == ("", ["released"])
    assert decision.events[0].reason == "somebody started it: it loads"
    assert decision.memory == Memory(server="2:2", runtime_restarts=restarts)


def test_count_that_somebody_reset_lifts_no_quarantine() -> None:
    decision = decide(quarantined(), Verdict("down", "it is stopped"), NOW + 10, SETTINGS)
    assert decision.memory.quarantine
    assert not decision.events


def test_what_the_runtime_starts_in_a_quarantine_is_stopped_too() -> None:
    memory = quarantined()
    started = Verdict("loading", "", "2:2", restarts=BUDGET + 1)
    early = decide(memory, replace(started, state="ready", serves=True), NOW + 149, SETTINGS)
    assert (early.action, early.memory.quarantine, kinds(early)) == ("", memory.quarantine, ["restart"])
    assert decide(early.memory, started, NOW + 150, SETTINGS).action == "quarantine"


def test_quarantine_of_what_never_ran_is_lifted_by_a_start() -> None:
    memory = Memory()
    for number in range(BUDGET + 1):
        memory = decide(memory, replace(GIVEN_UP, restarts=9), NOW + 150 * number, SETTINGS).memory
    assert memory.quarantine
    assert kinds(decide(memory, Verdict("loading", "", "1:1", restarts=9), NOW + 2000, SETTINGS)) == ["released"]


def test_restarts_from_before_the_first_look_do_not_count() -> None:
    decision = decide(Memory(), replace(READY, restarts=40), NOW, SETTINGS)
    assert decision.memory == Memory("1:1", runtime_restarts=40, serving_since=NOW)


@pytest.mark.parametrize(("known", "reading"), [(7, 0), (7, 7), (0, 7)])
def test_count_of_a_server_that_was_not_asked_for_does_no_harm(known: int, reading: int) -> None:
    """A program that begins to watch may judge a server that it knows before it has asked for the count."""
    memory = replace(KNOWN, runtime_restarts=known)
    memory = decide(memory, replace(READY, restarts=reading), NOW, SETTINGS).memory
    memory = decide(memory, Verdict("loading", "", "2:2", restarts=8), NOW + 1, SETTINGS).memory
    assert memory.restarts == (NOW + 1,)


def test_starts_that_the_launcher_refuses_are_no_restarts() -> None:
    """A port is taken while a server is down: the runtime tries each five seconds, for minutes."""
    memory = KNOWN
    for tries in range(1, 100):
        verdict = Verdict("down", "port 8000 is held", restarts=tries, refused=True)
        decision = decide(memory, verdict, NOW + 5 * tries, SETTINGS)
        assert (decision.action, decision.events) == ("", ())
        memory = decision.memory
    decision = decide(memory, Verdict("loading", "", "2:2", restarts=100), NOW + 500, SETTINGS)
    assert (decision.action, len(decision.memory.restarts)) == ("", 1)


def test_servers_that_end_before_they_are_seen_count() -> None:
    memory = KNOWN
    for ended in range(1, 3):
        memory = decide(memory, Verdict("down", "", restarts=ended), NOW + ended, SETTINGS).memory
    decision = decide(memory, Verdict("loading", "", "4:4", restarts=3), NOW + 3, SETTINGS)
    assert len(decision.memory.restarts) == 3


@pytest.mark.parametrize("steady_at", [None, NOW - 50])
def test_crash_loop_ends_in_quarantine_when_it_exceeds_the_budget(steady_at: float | None) -> None:
    memory = replace(KNOWN, steady_at=steady_at)
    for number in range(1, BUDGET + 1):
        decision = decide(memory, Verdict("loading", "", f"{number}:9", restarts=number), NOW + number, SETTINGS)
        assert decision.action == ""
        memory = decision.memory
    decision = decide(memory, Verdict("loading", "it loads", "9:9", restarts=BUDGET + 1), NOW + 60, SETTINGS)
    assert (decision.action, kinds(decision)) == ("quarantine", ["restart", "quarantine"])
    assert decision.reason == "left stopped after 6 restarts: it does not stay up: it loads"


def test_crashes_with_steady_service_between_them_are_the_runtimes_own_affair() -> None:
    memory = KNOWN
    for number in range(1, 20):
        now = NOW + 400 * number
        for state, after in (("loading", 0), ("ready", 10), ("ready", 310)):
            verdict = Verdict(state, "", f"{number}:9", serves=state == "ready", restarts=number)
            decision = decide(memory, verdict, now + after, SETTINGS)
            assert decision.action == ""
            memory = decision.memory
    assert decide(memory, replace(HUNG, server="19:9"), now + 320, SETTINGS).action == "quarantine"


def test_recovered_is_told_once() -> None:
    memory = decide(KNOWN, HUNG, NOW, SETTINGS).memory
    seen = []
    for after, verdict in enumerate(
        [
            READY,  # the kill is on its way
            Verdict("down", "", restarts=0),
            Verdict("loading", "", "2:2", restarts=1),
            Verdict("busy", "3 wait", "2:2", serves=True, restarts=1),
            Verdict("ready", "it answers", "2:2", serves=True, restarts=1),
        ]
    ):
        decision = decide(memory, verdict, NOW + after, SETTINGS)
        memory = decision.memory
        seen.append([(event.kind, event.reason) for event in decision.events])
    assert seen == [[], [], [], [("recovered", "it serves again: 3 wait")], []]


# Random histories

FAULTS = {"hang": 1, "crash": 1, "die": 1, "error": 1, "deaf": 2, "stall": 1, "give_up": 1}
"""Restarts that each fault of a start costs: one that is deaf to SIGTERM costs a kill on top."""
FOREVER = math.inf


class World:
    """A server and its runtime. Each start has a fault or none, and what is done to it has effects."""

    def __init__(self, faults: Iterator[str], load_seconds: float, healthy_seconds: float) -> None:
        self.now = 0.0
        self.faults = faults
        self.load_seconds, self.healthy_seconds = load_seconds, healthy_seconds
        self.restart_seconds, self.stop_seconds = 5.0, 30.0
        self.port_free_at = 0.0
        self.busy: tuple[float, float] = (0.0, 0.0)
        self.starts = self.restarts = 0
        self.made: list[float] = []
        """When it was restarted, by itself or by the policy, since somebody started it."""
        self.start()

    def start(self, by_hand: bool = True, own: bool = False) -> None:
        if by_hand:
            self.restarts = 0
        if self.now < self.port_free_at:
            self.enter("dead", self.restart_seconds)
            return
        self.starts += 1
        self.fault = next(self.faults)
        if self.fault == "give_up":
            self.enter("given_up")
            return
        if own:
            self.made.append(self.now)
        self.enter("loading", self.load_seconds)

    def enter(self, phase: str, seconds: float = FOREVER) -> None:
        self.phase, self.until = phase, self.now + seconds

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.until <= end:
            self.now = self.until
            self.turn()
        self.now = end

    def turn(self) -> None:
        """What comes after a phase."""
        lasts = {"crashed": self.restart_seconds, "serving": self.healthy_seconds if self.fault else FOREVER}
        if self.phase == "loading":
            after = {"stall": "hung", "die": "crashed"}.get(self.fault, "serving")
            self.enter(after, lasts.get(after, FOREVER))
        elif self.phase == "serving":
            after = {"hang": "hung", "crash": "crashed"}.get(self.fault, "failed")
            self.enter(after, lasts.get(after, FOREVER))
        elif self.phase in ("crashed", "dead"):
            self.restarts += 1
            self.start(by_hand=False, own=self.phase == "crashed")
        elif self.phase == "stopping":
            self.start()

    def act(self, action: str) -> None:
        if action in ("restart", "kill"):
            self.made.append(self.now)
        if action == "restart" and not self.server:
            self.start()
        elif action == "restart" and self.fault != "deaf":
            self.enter("stopping", self.stop_seconds)
        elif action == "kill":
            assert self.server, "there is nothing to kill"
            self.enter("dead", self.restart_seconds)
        elif action == "quarantine":
            self.enter("stopped")

    def somebody(self, does: str) -> None:
        if does == "stop":
            self.enter("stopped")
        elif self.phase in ("stopped", "given_up"):
            self.made = []
            self.start()

    @property
    def server(self) -> str:
        return "" if self.phase in ("dead", "crashed", "given_up", "stopped") else f"{self.starts}:9"

    def verdict(self) -> Verdict:
        busy = self.busy[0] <= self.now < self.busy[1]
        state = {"stopping": "draining", "given_up": "failed", "serving": "busy" if busy else "ready"}.get(self.phase)
        state = state or ("down" if not self.server else self.phase)
        serves = state in ("ready", "busy")
        return Verdict(
            state,
            self.phase,
            self.server,
            lost=state == "hung",
            serves=serves,
            restarts=self.restarts,
            refused=self.phase == "dead" and self.now < self.port_free_at,
        )


def watch(
    world: World, gaps: Iterator[float], seconds: float, blind: Iterator[bool] | None = None
) -> Iterator[Decision]:
    """Look at the world and act in it until the time is over, each decision checked for what always holds."""
    memory = Memory()
    while world.now < seconds:
        verdict = world.verdict()
        if blind and next(blind, False):
            verdict = Verdict("unknown", "the look failed")
        decision = decide(memory, verdict, world.now, SETTINGS)
        check(memory, verdict, decision)
        world.act(decision.action)
        if decision.action in ("restart", "kill"):
            assert len([at for at in world.made if at > world.now - WINDOW]) <= BUDGET
        memory = decision.memory
        yield decision
        world.pass_time(next(gaps, 1.0))


def check(before: Memory, verdict: Verdict, decision: Decision) -> None:
    """What holds whatever has been."""
    if decision.action in ("restart", "kill"):
        assert verdict.state in ("hung", "failed")
        assert not before.quarantine or "released" in kinds(decision)
        *earlier, last = decision.memory.restarts
        assert len(earlier) < BUDGET
        if earlier:
            assert last - earlier[-1] >= (10, 20, 40, 80)[len(earlier) - 1]
    if decision.action == "quarantine":
        assert decision.memory.quarantine
        assert verdict.state in ("hung", "failed") or before.quarantine or "restart" in kinds(decision)
    if verdict.state in ("unknown", "draining"):
        assert not decision.action
    assert bool(decision.action) <= bool(decision.reason)
    assert len(decision.memory.restarts) <= BUDGET + 1
    assert all(event.reason for event in decision.events)


def kinds_of(history: list[Decision]) -> list[str]:
    return [kind for decision in history for kind in kinds(decision)]


def cost(faults: list[str]) -> int:
    """Restarts that it takes to get over them: one that the runtime gave up at once, after an end, is not two."""
    unseen = sum(first in ("crash", "die") and then == "give_up" for first, then in zip(faults, faults[1:]))
    return sum(FAULTS[fault] for fault in faults) - unseen


loads = st.floats(5, 60) | st.just(600.0)
gap_lists = st.lists(st.floats(1, 5), min_size=1, max_size=10)
"""Every server lives for long enough to be seen."""
fault_lists = st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=5)


@examples(max_examples=40, deadline=None)
@given(fault_lists, loads, st.floats(0, 290), gap_lists, st.lists(st.booleans(), min_size=1, max_size=4))
def test_permanent_fault_always_ends_in_quarantine(
    faults: list[str], load: float, healthy: float, gaps: list[float], blind: list[bool]
) -> None:
    assume(not all(blind) and (load > 20 or not any(blind)))
    world = World(itertools.cycle(faults), load, healthy)
    history = []
    for decision in watch(world, itertools.cycle(gaps), 20_000, itertools.cycle(blind)):
        history.append(decision)
        if decision.action == "quarantine":
            break
    assert history[-1].action == "quarantine"
    assert kinds_of(history).count("restart") in (BUDGET, BUDGET + 1)
    # It stays so.
    assert world.phase == "stopped"
    world.pass_time(50_000)
    assert world.phase == "stopped"


@examples(max_examples=40, deadline=None)
@given(fault_lists, loads, st.floats(0, 290), gap_lists)
@example(["crash"] * BUDGET, 5.0, 0.0, [2.0])
@example(["hang"] * BUDGET, 600.0, 290.0, [2.0])
def test_transient_fault_never_does(faults: list[str], load: float, healthy: float, gaps: list[float]) -> None:
    assume(cost(faults) <= BUDGET)
    world = World(itertools.chain(faults, itertools.repeat("")), load, healthy)
    history = list(watch(world, itertools.cycle(gaps), 2_000 + len(faults) * (load + healthy)))
    assert world.verdict().serves
    told = kinds_of(history)
    assert "quarantine" not in told
    assert told.count("restart") == cost(faults)
    assert told[-1] == "recovered"
    assert not history[-1].memory.recovering


@examples(max_examples=40, deadline=None)
@given(
    loads,
    st.lists(st.floats(2, 300), min_size=1, max_size=10),
    st.tuples(st.floats(0, 3000), st.floats(0, 3000)),
    st.lists(st.tuples(st.floats(0, 600), st.sampled_from(["stop", "start"])), max_size=8),
    st.lists(st.booleans(), min_size=1, max_size=4),
)
def test_without_a_fault_nothing_is_done(
    load: float, gaps: list[float], busy: tuple[float, float], deeds: list[tuple[float, str]], blind: list[bool]
) -> None:
    """However long it loads, however busy it is, whoever stops and starts it, and whether or not looks fail."""
    world = World(itertools.repeat(""), load, FOREVER)
    world.busy = (min(busy), max(busy))
    history = []
    looks = watch(world, itertools.cycle(gaps), 5_000, itertools.cycle(blind))
    for after, deed in [*deeds, (FOREVER, "")]:
        due = world.now + after
        for decision in looks:
            history.append(decision)
            if world.now >= due:
                world.somebody(deed)
                break
    assert {decision.action for decision in history} == {""}
    assert kinds_of(history) == []


@examples(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["", *sorted(FAULTS)]), min_size=1, max_size=8),
    st.floats(5, 100),
    st.floats(0, 2000),
    gap_lists,
    st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(["stop", "start", "take port"])), max_size=8),
)
def test_budget_holds_whatever_happens(
    faults: list[str], load: float, healthy: float, gaps: list[float], deeds: list[tuple[float, str]]
) -> None:
    """`watch` counts what its world has seen, in any window since somebody started it."""
    world = World(itertools.cycle(faults), load, healthy)
    looks = watch(world, itertools.cycle(gaps), 8_000)
    for after, deed in [*deeds, (FOREVER, "")]:
        due = world.now + after
        for _decision in looks:
            if world.now >= due:
                if deed == "take port":
                    world.port_free_at = world.now + 200
                else:
                    world.somebody(deed)
                break


@examples(max_examples=20, deadline=None)
@given(st.sampled_from(["hang", "stall", "error", "crash"]), gap_lists)
def test_start_by_hand_releases_and_a_fault_that_stayed_comes_back(fault: str, gaps: list[float]) -> None:
    world = World(itertools.repeat(fault), 20, 20)
    looks = watch(world, itertools.cycle(gaps), 4_000)
    for _round in range(2):
        told = []
        for decision in looks:
            told += kinds(decision)
            if decision.action == "quarantine":
                break
        assert told[-1] == "quarantine"
        assert told.count("restart") >= BUDGET
        world.somebody("start")


verdicts = st.builds(
    Verdict,
    state=st.sampled_from(STATES),
    evidence=st.text(max_size=5),
    server=st.sampled_from(["", "1:1", "2:2", "3:3"]),
    lost=st.booleans(),
    serves=st.booleans(),
    restarts=st.integers(0, 10) | st.integers(0, 1 << 32),
)


@examples(max_examples=200, deadline=None)
@given(st.lists(st.tuples(verdicts, st.floats(0, 5000)), max_size=40))
def test_no_history_at_all_breaks_its_rules(history: list[tuple[Verdict, float]]) -> None:
    memory, now = Memory(), 0.0
    for verdict, gap in history:
        now += gap
        decision = decide(memory, verdict, now, SETTINGS)
        check(memory, verdict, decision)
        assert decide(memory, verdict, now, SETTINGS) == decision
        memory = decision.memory
        assert memories.from_json(asdict(memory), now) == memory


def test_wall_clock_is_never_read(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    def read(*_arguments: object) -> float:
        raise AssertionError("the wall clock was read")

    for name in ("time", "time_ns", "localtime", "gmtime", "strftime", "ctime"):
        monkeypatch.setattr(time, name, read)
    path = str(tmp_path / "tiny.json")
    world = World(itertools.repeat("hang"), 20, 20)
    for decision in watch(world, itertools.repeat(2.0), 3_000):
        memories.save(path, "boot", decision.memory)
        assert memories.load(path, "boot", world.now) == (decision.memory, "")
    assert decision.memory.quarantine
