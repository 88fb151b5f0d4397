# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of servers that load, work, wait, saturate, freeze and die, on a clock that the tests turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._serving import metrics
from ansible_collections.inferops.vllm.plugins.module_utils._serving.client import Answer
from ansible_collections.inferops.vllm.plugins.module_utils._serving.process import Work
from ansible_collections.inferops.vllm.plugins.module_utils._serving.verdict import (
    BUSY,
    DOWN,
    DRAINING,
    FAILED,
    HUNG,
    LOADING,
    READY,
    STATES,
    UNKNOWN,
    Judge,
    Look,
    Thresholds,
    Unit,
    Verdict,
)

LIMITS = Thresholds()
GRACE = LIMITS.hang_grace_seconds
LOOK_SECONDS = 2.0
WAIT_SECONDS = 1.0
"""What a look waits for answers."""
FAULTS = {HUNG, FAILED}


def answered(status: int | None = 200, error: str = "") -> Answer:
    return Answer(status, b"", error, 0.0)


REFUSED = answered(None, "ConnectionRefusedError: [Errno 111]")


@dataclass
class Engine:
    steps: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    frozen: bool = False
    asleep: bool = False


@dataclass
class Node:
    """A server, its watcher and its judge. What is set here holds until it is set anew."""

    judge: Judge = field(default_factory=lambda: Judge(LIMITS))
    now: float = 100_000.0
    pid: int = 7
    """0 where no server runs."""
    born: float = 100_000.0
    unit: Unit = field(default_factory=lambda: Unit("running"))
    health: Answer | None = REFUSED
    """How /health ends; None where it does not."""
    answer_seconds: float = 0.0
    page: bool = True
    """Whether /metrics can be read."""
    engines: dict[str, Engine] = field(default_factory=lambda: {"0": Engine()})
    step_seconds: float = 0.1
    load: int = 0
    probe: Answer = field(default_factory=answered)
    probe_seconds: float = 0.0
    """How long a one-token request takes a healthy engine."""
    cpu: float = 1.0
    """Processors in use, of which so many in the API server."""
    api_cpu: float = 0.1
    compiler: str = ""
    gone: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    _cpu_seconds: float = 0.0
    starved: float = 0.0
    """Part of the time in which API server and engine wait for a processor."""

    _api_busy_seconds: float = 0.0
    _waited_seconds: float = 0.0
    _asked: float | None = None
    _probed: float | None = None
    _credit: float = 0.0

    def loaded(self) -> Node:
        """Have it load, give its first token, and be idle."""
        self.look()
        self.health = answered()
        assert self.until(READY, 10) < 10
        self.cpu = self.api_cpu = 0.0
        return self

    def work(self, running: float = 4, waiting: float = 0, label: str = "0") -> None:
        self.engines[label].running, self.engines[label].waiting = running, waiting
        self.load = int(running + waiting)
        self.cpu, self.api_cpu = 1.0, 0.1

    def freeze(self, *labels: str) -> None:
        """Stop engines: their gauges and step counters stay as they are, and the API server goes on."""
        for label in labels or self.engines:
            self.engines[label].frozen = True
        self.cpu = self.api_cpu = 0.0

    def replaced(self) -> None:
        """A new process of the server, whose counters begin anew."""
        self.pid += 1
        self.born, self._cpu_seconds, self._api_busy_seconds, self._waited_seconds = self.now, 0.0, 0.0, 0.0
        self._asked = self._probed = None
        self.engines = {label: Engine() for label in self.engines}
        self.load, self.health, self.cpu = 0, REFUSED, 1.0

    def look(self, seconds: float = LOOK_SECONDS) -> Verdict:
        self._pass(seconds)
        if not self.pid:
            self._asked = self._probed = None
            return self.judge.judge(Look(self.now, unit=self.unit))
        if self.judge.wants_probe and self._probed is None:
            self._probed = self.now
        self._asked = self.now if self._asked is None else self._asked
        health, asked_seconds = self._scraped()
        probe, probe_seconds = self._token()
        good = health is not None and health.ok
        doubtful = bool(self.gone) or (health is not None and not good)
        return self.judge.judge(
            Look(
                at=self.now,
                server=f"{self.pid}:1",
                age_seconds=self.now - self.born,
                unit=self.unit if doubtful else None,
                health=health,
                engines=self._read() if good and self.page else None,
                load=self.load + (probe_seconds > 0) if good else 0,
                asked_seconds=asked_seconds,
                probe=probe,
                probe_seconds=probe_seconds,
                gone=self.gone,
                stopped=self.stopped,
                compiler=self.compiler,
                work=Work(self._cpu_seconds, 0),
                api_busy_seconds=self._api_busy_seconds,
                waits={"VLLM::EngineCor (8)": self._waited_seconds},
            )
        )

    def run(self, seconds: float) -> list[Verdict]:
        return [self.look() for _number in range(round(seconds / LOOK_SECONDS))]

    def until(self, state: str, seconds: float) -> float:
        """Seconds until it is called that; no other fault may be told before."""
        begin = self.now
        while self.now - begin < seconds:
            verdict = self.look()
            if verdict.state == state:
                return self.now - begin
            assert verdict.state not in FAULTS, verdict
        raise AssertionError(f"not {state} within {seconds} s but {verdict}")

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self._cpu_seconds += self.cpu * seconds
        self._api_busy_seconds += (self.api_cpu + self.starved) * seconds
        self._waited_seconds += self.starved * seconds
        self._credit += seconds / self.step_seconds
        steps, self._credit = divmod(self._credit, 1)
        for engine in self.engines.values():
            if engine.running + engine.waiting and not engine.frozen:
                engine.steps += steps

    def _scraped(self) -> tuple[Answer | None, float]:
        assert self._asked is not None
        open_seconds = self.now - self._asked
        if self.health is None or open_seconds + WAIT_SECONDS < self.answer_seconds:
            return None, max(open_seconds + WAIT_SECONDS, 1e-6)
        self._asked = None
        return self.health, 0.0

    def _token(self) -> tuple[Answer | None, float]:
        """The end of a one-token request, from the engine that has least to do."""
        if self._probed is None:
            return None, 0.0
        open_seconds = self.now - self._probed
        engine = min(self.engines.values(), key=lambda engine: engine.running + engine.waiting)
        reached = self.health is not None and self.health.ok and not engine.frozen
        if not reached or open_seconds + WAIT_SECONDS < self.probe_seconds:
            return None, max(open_seconds + WAIT_SECONDS, 1e-6)
        self._probed = None
        if self.probe.ok:
            engine.steps += 1
        return self.probe, 0.0

    def _read(self) -> dict[str, metrics.Engine]:
        return {
            label: metrics.Engine(engine.steps, engine.running, engine.waiting, engine.asleep)
            for label, engine in self.engines.items()
        }


@pytest.fixture
def node() -> Node:
    return Node()


def states(verdicts: list[Verdict]) -> set[str]:
    return {verdict.state for verdict in verdicts}


class TestLoading:
    def test_slow_load_that_goes_on(self, node: Node) -> None:
        node.cpu = 0.05
        verdicts = node.run(590)
        assert states(verdicts) == {LOADING}
        assert not any(verdict.serves for verdict in verdicts)

    def test_stalled_load(self, node: Node) -> None:
        node.run(100)
        node.cpu = 0.0
        node.stopped = ("VLLM::EngineCor (8)",)
        seconds = node.until(HUNG, 200)
        assert LIMITS.load_stall_seconds <= seconds <= LIMITS.load_stall_seconds + 5
        verdict = node.look()
        assert verdict.lost
        assert "stopped by a signal: VLLM::EngineCor (8)" in verdict.evidence

    def test_load_past_its_grace(self, node: Node) -> None:
        assert LIMITS.start_grace_seconds <= node.until(HUNG, 700) <= LIMITS.start_grace_seconds + 5

    def test_first_token_compiles(self, node: Node) -> None:
        node.look()
        node.health, node.probe_seconds = answered(), 60
        verdicts = node.run(56)
        assert states(verdicts) == {LOADING}
        assert not any(verdict.serves for verdict in verdicts)
        assert node.until(READY, 10)

    def test_first_token_compiles_in_another_process(self, node: Node) -> None:
        node.look()
        node.health, node.probe_seconds, node.cpu, node.compiler = answered(), 90, 0.0, "nvcc"
        assert states(node.run(80)) == {LOADING}

    def test_first_token_never_comes(self, node: Node) -> None:
        node.look()
        node.health = answered()
        node.freeze()
        assert GRACE <= node.until(HUNG, 60) <= GRACE + 10

    def test_first_tokens_end_with_errors(self, node: Node) -> None:
        node.look()
        node.health, node.probe = answered(), answered(500)
        node.until(FAILED, 20)
        assert not node.look().lost

    def test_load_that_dies_and_is_tried_again(self, node: Node) -> None:
        node.run(20)
        node.pid, node.unit = 0, Unit("starting", restarts=1)
        assert node.look() == Verdict(DOWN, "it has ended, and its runtime starts it again", restarts=1)
        node.pid = 8
        node.replaced()
        verdict = node.look()
        assert (verdict.state, verdict.server, verdict.restarts) == (LOADING, "9:1", 1)


class TestWorking:
    def test_idle_for_hours(self, node: Node) -> None:
        verdicts = node.loaded().run(3 * 3600)
        assert states(verdicts) == {READY}
        assert all(verdict.serves for verdict in verdicts)

    def test_idle_engine_is_asked_for_a_token_now_and_then(self, node: Node) -> None:
        node.loaded()
        steps = node.engines["0"].steps
        node.run(100)
        assert 5 <= node.engines["0"].steps - steps <= 11

    def test_engine_at_work_is_not_asked(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        for _number in range(100):
            node.look()
            assert not node.judge.wants_probe

    def test_media_that_take_long_to_download(self, node: Node) -> None:
        """The API server has a request that the engine has not seen."""
        node.loaded().load = 1
        assert states(node.run(300)) == {READY}

    def test_saturated(self, node: Node) -> None:
        """Answers take 40 s and the queue grows for five minutes, but steps go on."""
        node.loaded()
        node.answer_seconds, node.step_seconds, node.probe_seconds = 40, 1.0, 200
        verdicts = []
        for minute in range(5):
            node.work(running=256, waiting=500 * (minute + 1))
            node.api_cpu = 1.0
            verdicts += node.run(60)
        assert states(verdicts) <= {READY, BUSY}
        assert all(verdict.serves for verdict in verdicts)
        assert states(verdicts[10:]) == {BUSY}

    def test_saturated_after_hours_without_work(self, node: Node) -> None:
        """What little its API server computes is measured since it last answered, not against the hours before."""
        node.loaded().run(4 * 3600)
        node.answer_seconds, node.probe_seconds = 60, 200
        node.work(running=256, waiting=500)
        node.api_cpu = 0.03
        verdicts = node.run(300)
        assert states(verdicts) <= {READY, BUSY}
        assert all(verdict.serves for verdict in verdicts)

    def test_starved_api_server(self, node: Node) -> None:
        """Others have the processors that it waits for: it neither answers nor computes."""
        node.loaded().work()
        node.look()
        node.answer_seconds, node.api_cpu, node.starved = 60, 0.001, 0.9
        verdicts = node.run(300)
        assert states(verdicts) <= {READY, BUSY}
        assert all(verdict.serves for verdict in verdicts)

    def test_starved_engine(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        node.engines["0"].frozen, node.starved = True, 0.8
        verdicts = node.run(LIMITS.unresponsive_seconds - 10)
        assert states(verdicts) <= {READY, BUSY}
        assert verdicts[-1].evidence.endswith("it waits for a processor")
        assert node.until(HUNG, 30), "patience ends"

    def test_engine_that_shares_its_processors_is_not_starved(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        node.engines["0"].frozen, node.starved = True, 0.3
        assert node.until(HUNG, 60) <= GRACE + LOOK_SECONDS

    @pytest.mark.parametrize("part", ["engine", "API server"])
    def test_watcher_that_stood_still(self, node: Node, part: str) -> None:
        """The host slept, or the watcher: what was not looked at has not stood still for so long."""
        node.loaded().work()
        node.look()
        if part == "engine":
            node.freeze()
        else:
            node.health, node.api_cpu = None, 0.0
        verdict = node.look(3600)
        assert verdict.state in (READY, BUSY, UNKNOWN)
        assert 0 < node.until(HUNG, 60) <= GRACE + 2 * LOOK_SECONDS

    def test_engine_that_compiles(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        node.freeze()
        node.compiler = "ptxas"
        verdicts = node.run(300)
        assert states(verdicts) <= {READY, BUSY}
        assert verdicts[-1].evidence.endswith("ptxas is at work")
        node.compiler = ""
        assert node.look().state == HUNG

    def test_sleeping_engine(self, node: Node) -> None:
        node.loaded()
        node.freeze()
        node.engines["0"].asleep = True
        assert not states(node.run(600)) & FAULTS
        node.engines["0"].asleep = node.engines["0"].frozen = False
        assert not states(node.run(60)) & FAULTS

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_server_that_cannot_be_asked_for_a_token(self, node: Node, status: int) -> None:
        node.look()
        node.health, node.probe = answered(), answered(status)
        node.until(READY, 10)
        assert states(node.run(600)) == {READY}
        node.work()
        node.look()
        node.freeze()
        assert node.until(HUNG, 60) <= GRACE + 15

    def test_tokens_that_end_with_errors(self, node: Node) -> None:
        node.loaded().probe = answered(500)
        node.until(FAILED, 60)
        node.probe = answered()
        assert node.until(READY, 30)

    def test_full_queue_is_no_fault(self, node: Node) -> None:
        node.loaded().probe = answered(503)
        assert states(node.run(300)) == {READY}

    def test_without_a_step_counter_patience_decides(self, node: Node) -> None:
        node.engines = {"": Engine()}
        node.page = False
        node.loaded().probe_seconds = LIMITS.unresponsive_seconds - 10
        assert not states(node.run(600)) & FAULTS
        node.probe_seconds = 0
        node.run(10)
        node.freeze()
        assert node.until(HUNG, 300) > LIMITS.unresponsive_seconds - 5

    def test_metrics_that_cannot_be_read_are_no_hang(self, node: Node) -> None:
        """Not even while answers are slow: what the counter did meanwhile is not known."""
        node.loaded().work()
        node.look()
        node.page, node.probe_seconds = False, 60
        assert not states(node.run(300)) & FAULTS
        node.page = True
        assert not states(node.run(60)) & FAULTS

    def test_one_page_that_cannot_be_read_while_the_queue_is_long(self, node: Node) -> None:
        node.loaded().work(running=256, waiting=5000)
        node.step_seconds, node.probe_seconds = GRACE / 2, 250
        node.run(240)
        node.page = False
        assert not states(node.run(10)) & FAULTS

    def test_frozen_engine_of_a_server_whose_metrics_cannot_be_read(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        node.page = False
        node.freeze()
        assert node.until(HUNG, 300) >= LIMITS.unresponsive_seconds


class TestFrozen:
    def test_under_load(self, node: Node) -> None:
        node.loaded().work(running=4, waiting=2)
        node.run(60)
        node.freeze()
        assert GRACE <= node.until(HUNG, 60) <= GRACE + 10
        verdict = node.look()
        assert verdict.lost
        assert not verdict.serves
        assert "no engine step for" in verdict.evidence
        assert "4 requests running, 2 waiting" in verdict.evidence

    def test_idle(self, node: Node) -> None:
        """Nothing but the token asked for now and then brings it to light."""
        node.loaded()
        node.freeze()
        assert GRACE <= node.until(HUNG, 90) <= GRACE + 15

    def test_idle_and_then_requests_come(self, node: Node) -> None:
        """The gauges stay 0, for the engine pushes them; the API server's own count grows."""
        node.loaded()
        node.run(LIMITS.idle_probe_seconds)
        node.freeze()
        node.look()
        node.load = 3
        assert node.until(HUNG, 90) <= GRACE + 15

    def test_one_of_several_engines_under_load(self, node: Node) -> None:
        node.engines = {str(number): Engine() for number in range(4)}
        node.loaded()
        for label in node.engines:
            node.work(label=label)
        node.run(60)
        node.engines["2"].running = 1
        node.freeze("2")
        assert GRACE <= node.until(HUNG, 60) <= GRACE + 10

    def test_one_of_several_engines_while_idle(self, node: Node) -> None:
        """It seems to have nothing to do, so every request is sent to it, the one-token request too."""
        node.engines = {str(number): Engine() for number in range(2)}
        node.loaded()
        node.work(label="0")
        node.freeze("1")
        node.cpu = 1.0
        assert node.until(HUNG, 300) <= LIMITS.unresponsive_seconds + 15

    def test_several_engines_of_which_some_are_idle(self, node: Node) -> None:
        node.engines = {str(number): Engine() for number in range(4)}
        node.loaded()
        node.work(label="1")
        assert not states(node.run(600)) & FAULTS

    def test_slow_steps_are_no_hang(self, node: Node) -> None:
        node.loaded().work()
        node.step_seconds, node.probe_seconds = GRACE * 0.8, 300
        assert states(node.run(600)) <= {READY, BUSY}

    def test_thawed_engine_serves_again(self, node: Node) -> None:
        node.loaded().work()
        node.freeze()
        node.until(HUNG, 60)
        node.engines["0"].frozen = False
        assert node.until(READY, 10)

    def test_api_server(self, node: Node) -> None:
        node.loaded()
        node.health = None
        verdicts = []
        while (verdict := node.look()).state != HUNG:
            verdicts.append(verdict)
            assert len(verdicts) < 15
        assert len(verdicts) * LOOK_SECONDS >= GRACE - LOOK_SECONDS
        assert states(verdicts) <= {READY, BUSY, UNKNOWN}
        assert not verdicts[-1].serves
        assert verdict.lost

    def test_api_server_at_the_height_of_its_work(self, node: Node) -> None:
        """What it has computed before does not hide that it computes no more."""
        node.loaded().work()
        node.api_cpu = 1.0
        node.run(60)
        node.look()
        node.health = None
        node.look()
        node.api_cpu = 0.0
        assert node.until(HUNG, 60) <= GRACE + 5

    def test_api_server_that_computes_and_answers_nothing(self, node: Node) -> None:
        node.loaded().work()
        node.look()
        node.health, node.api_cpu = None, 1.0
        verdicts = node.run(LIMITS.unresponsive_seconds - 10)
        assert states(verdicts) <= {READY, BUSY}
        assert all(verdict.serves for verdict in verdicts)
        assert node.until(HUNG, 30)


class TestEnding:
    def test_connection_refused(self, node: Node) -> None:
        node.loaded().health = REFUSED
        verdict = node.look()
        assert (verdict.state, verdict.serves) == (UNKNOWN, False)
        assert GRACE - 5 <= node.until(HUNG, 60) <= GRACE + 5

    def test_engine_gone(self, node: Node) -> None:
        node.loaded().gone = ("VLLM::EngineCor (8)",)
        assert node.look() == Verdict(FAILED, "VLLM::EngineCor (8) is gone", "7:1", lost=True)

    def test_health_says_dead(self, node: Node) -> None:
        node.loaded().health = answered(503)
        verdict = node.look()
        assert (verdict.state, verdict.lost, verdict.serves) == (FAILED, True, False)

    @pytest.mark.parametrize(
        "change", [{"gone": ("VLLM::EngineCor (8)",)}, {"health": answered(503)}, {"health": REFUSED}]
    )
    def test_stopping(self, node: Node, change: dict[str, object]) -> None:
        """A server on its way out loses its engines and its port in due order."""
        node.loaded().unit = Unit("stopping")
        for name, value in change.items():
            setattr(node, name, value)
        verdict = node.look()
        assert (verdict.state, verdict.lost, verdict.serves) == (DRAINING, False, False)

    def test_another_program_on_the_port(self, node: Node) -> None:
        node.loaded().health = answered(404)
        verdicts = node.run(600)
        assert states(verdicts) == {UNKNOWN}
        assert not any(verdict.serves for verdict in verdicts)

    def test_one_torn_answer_does_not_take_it_out(self, node: Node) -> None:
        node.loaded().health = answered(None, "EOFError: the connection ended without an answer")
        verdict = node.look()
        assert (verdict.state, verdict.serves) == (UNKNOWN, True)
        node.health = answered()
        assert node.look().state == READY

    @pytest.mark.parametrize(
        ("unit", "obstacle", "state", "evidence"),
        [
            (None, "", UNKNOWN, "it has no process, and its runtime does not say why"),
            (Unit("running"), "", DOWN, "it has ended, and its runtime starts it again"),
            (Unit("starting"), "port 1 is held", DOWN, "it cannot start: port 1 is held"),
            (Unit("stopped"), "", DOWN, "it is stopped"),
            (Unit("stopping"), "", DOWN, "it has ended, and its runtime clears up after it"),
            (Unit("failed", 5, "exit-code"), "", FAILED, "its runtime has given up on it: exit-code"),
        ],
    )
    def test_no_process(self, unit: Unit | None, obstacle: str, state: str, evidence: str) -> None:
        verdict = Judge(LIMITS).judge(Look(1.0, unit=unit, obstacle=obstacle))
        assert (verdict.state, verdict.evidence, verdict.server, verdict.serves) == (state, evidence, "", False)

    @pytest.mark.parametrize("state", ["stopping", "stopped", "starting"])
    @pytest.mark.parametrize("sign", ["gone", "503"])
    def test_somebody_has_stopped_it_meanwhile(self, node: Node, state: str, sign: str) -> None:
        """What is lost of a server on its way out is no reason to kill by its name, which the next one has too."""
        node.loaded().unit = Unit(state)
        if sign == "gone":
            node.gone = ("VLLM::EngineCor (8)",)
        else:
            node.health = answered(503)
        verdict = node.look()
        assert (verdict.state, verdict.lost, verdict.serves) == (DRAINING, False, False)

    def test_restart_in_between(self, node: Node) -> None:
        """Counters that begin anew are no standstill, whether the process was missed for a look or not."""
        node.loaded().work()
        node.run(300)
        node.replaced()
        verdict = node.look()
        assert (verdict.state, verdict.server) == (LOADING, "8:1")
        node.health = answered()
        assert not states(node.run(600)) & FAULTS


class TestFirstLooks:
    """A program begins to watch a server that has run for long: it may not take that for a start that failed."""

    @pytest.fixture
    def old(self, node: Node) -> Node:
        node.born = node.now - 86400
        node.health = answered()
        return node

    def test_at_work(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.work()
        assert old.look().state == READY

    def test_idle(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.cpu = old.api_cpu = 0.0
        verdict = old.look()
        assert (verdict.state, verdict.serves) == (READY, True)

    def test_never_asked_for_a_token(self, old: Node) -> None:
        old.cpu = old.api_cpu = 0.0
        assert states(old.run(60)) <= {LOADING, READY}
        assert old.look().state == READY

    def test_saturated(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.work(running=256, waiting=500)
        old.api_cpu, old.answer_seconds, old.probe_seconds = 1.0, 40, 200
        assert not states(old.run(300)) & FAULTS
        assert old.look().serves

    def test_without_a_step_counter(self, old: Node) -> None:
        old.page, old.probe_seconds = False, 40
        assert not states(old.run(300)) & FAULTS
        assert old.look().serves

    def test_metrics_that_cannot_be_read_at_first(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.page, old.probe_seconds = False, 30
        assert old.look().state not in FAULTS
        old.page = True
        assert old.look().state == READY

    def test_engine_frozen_under_load(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.work()
        old.freeze()
        assert old.until(HUNG, 90) <= GRACE + 15

    def test_engine_frozen_idle(self, old: Node) -> None:
        old.engines["0"].steps = 5000
        old.freeze()
        assert old.until(HUNG, 90) <= GRACE + 15

    def test_api_server_frozen(self, old: Node) -> None:
        old.health, old.cpu, old.api_cpu = None, 0.0, 0.0
        assert old.until(HUNG, 300) <= LIMITS.unresponsive_seconds + 5


PHASES = st.lists(
    st.fixed_dictionaries(
        {
            "seconds": st.integers(2, 200),
            "running": st.integers(0, 300),
            "waiting": st.integers(0, 5000),
            "load": st.integers(0, 6000),
            "answer_seconds": st.floats(0, LIMITS.unresponsive_seconds - 10),
            "step_seconds": st.floats(0.01, GRACE / 2),
            "probe_seconds": st.floats(0, LIMITS.unresponsive_seconds - 10),
            "api_cpu": st.floats(0.05, 1),
            "page": st.booleans(),
        }
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(PHASES, st.integers(1, 3), st.booleans())
def test_a_server_that_works_is_never_called_otherwise(phases, engines, known_from_its_start) -> None:
    """Whatever the load, and however slow the answers, as long as steps go on and answers come."""
    node = Node(engines={str(number): Engine() for number in range(engines)})
    if known_from_its_start:
        node.loaded()
    else:
        node.born -= 86400
        node.health = answered()
        node.engines["0"].steps = 1.0
    for phase in phases:
        phase = dict(phase)
        seconds, running, waiting = phase.pop("seconds"), phase.pop("running"), phase.pop("waiting")
        for label in node.engines:
            node.work(running, waiting, label)
        if not running + waiting:
            # An idle engine answers in time, whatever the API server is busy with.
            phase["probe_seconds"] = min(phase["probe_seconds"], GRACE - 2 * LOOK_SECONDS)
        for name, value in phase.items():
            setattr(node, name, value)
        for verdict in node.run(seconds):
            assert verdict.state in STATES
            assert verdict.state not in FAULTS, (phase, verdict)
            assert not verdict.lost


@settings(max_examples=150)
@given(
    PHASES,
    st.integers(1, 300),
    st.integers(0, 1000),
    st.floats(0, 1.9),
    st.sampled_from([200, 400]),
)
def test_a_frozen_engine_with_work_is_always_found(phases, running, waiting, answer_seconds, probe_status) -> None:
    node = Node().loaded()
    for phase in phases:
        phase = dict(phase)
        node.work(phase.pop("running"), phase.pop("waiting"))
        seconds = phase.pop("seconds")
        for name, value in phase.items():
            setattr(node, name, value)
        node.run(seconds)
    node.probe = answered(probe_status)
    node.answer_seconds, node.page = answer_seconds, True
    node.run(2 * LIMITS.unresponsive_seconds)
    node.work(running, waiting)
    node.look()
    node.freeze()
    node.probe_seconds = 0
    assert node.until(HUNG, 90) <= GRACE + 15


def test_looks_more_often_than_usual_change_nothing(node: Node) -> None:
    node.loaded().work()
    node.freeze()
    begin = node.now
    while node.look(0.1).state != HUNG:
        assert node.now - begin < 60
    assert GRACE <= node.now - begin <= GRACE + 10


def test_other_limits() -> None:
    node = Node(judge=Judge(replace(LIMITS, hang_grace_seconds=6.0, idle_probe_seconds=2.0))).loaded()
    node.freeze()
    assert 6 <= node.until(HUNG, 60) <= 6 + 15
