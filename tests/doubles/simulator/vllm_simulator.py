# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for the OpenAI-compatible server of vLLM 0.33, without a GPU, a model or an inference.

Habits it copies, each measured on vLLM 0.32 (a tiny model on a CPU) or read in the source of 0.33:

* Processes: the API server, and its child EngineCore (comm "VLLM::EngineCor", command line "VLLM::EngineCore").
  The child outlives a killed API server, keeps the environment and leaves the port free.
* Loading: the engine reads, and the port is bound at once but refuses connections until it is done. A start-up that
  fails ends with exit status 1, one that cannot work after a while too, for the real one has much to import first;
  SIGTERM while loading ends it with "KeyboardInterrupt: terminated" and a nonzero status.
* A stopped engine (SIGSTOP) freezes the step counter and the gauges, which the engine pushes, while /health, /metrics
  and /v1/models answer 200. Gauges do not move for requests that come after; /load, counted in the API server, does.
  SIGTERM then kills the engine, but the API server stays as long as a client of a request in flight does.
* A dead engine: streams get an error chunk and [DONE] inside HTTP 200, other requests 500; /health 503, then
  connection refused, then exit status 0: after 5 s, or at once when an unstreamed request was answered 500.
* SIGTERM: without --shutdown-timeout requests in flight end with finish_reason "abort" inside HTTP 200; with it they
  may finish, /health stays 200, and new requests get 500. Both exit with 0.
* SIGTERM to the whole process group with --shutdown-timeout: no request can finish, so the drain takes all its time.
* API keys guard the prefixes /v1, /v2, /inference and /cohere alone: /invocations and /tokenize are open.
* A request that its client leaves is aborted, and is not counted in vllm:request_success_total.
* --max-num-queued-reqs rejects with 503. HTTP keep-alive ends after VLLM_HTTP_TIMEOUT_KEEP_ALIVE (5 s).
* The names, labels and buckets of all vllm:* metrics but vllm:cache_config_info; beside them process_* and
  http_requests_total.

It starts like the real one: `python -m vllm.entrypoints.openai.api_server --model M`, `vllm serve M`; options also from
`--config FILE.yaml`, one `key: <JSON>` a line. Options that it does not know are accepted and do nothing.
The text of an answer is " 0 1 2 ...", a number for each token, so that a gap shows. A prompt has a token for each word.

Script of a start, in the environment (times in seconds):

  SIM_LOAD_SECONDS=0.3              time to load the model
  SIM_STARTUP_FAILURE_SECONDS       fail after that time instead of loading
  SIM_TOKEN_SECONDS=0.02            time of an engine step: a token for each running request
  SIM_ANSWER_TOKENS=64              tokens after which a request without ignore_eos stops
  SIM_DEATH_SECONDS=5               from the death of the engine to the exit of the API server
  SIM_HEALTH_SECONDS=0              saturation: time that /health and /ping take, computing, while the engine goes on
  SIM_METRICS_SECONDS=0             saturation: the same for /metrics
  SIM_FAIL=0                        1: answer 500 to every request for tokens
  SIM_HANG_AFTER_SECONDS            stop the engine that long after the start
  SIM_DIE_AFTER_SECONDS             kill the engine that long after the start

A wheel built with `build.py --default NAME=VALUE` has other defaults, so that a version can be a bad one.

Script of a running server: POST /simulator with a JSON object of one or more of these; GET shows the state.

  {"hang": true}                    SIGSTOP to the engine
  {"resume": true}                  SIGCONT to the engine
  {"saturate": {"health_seconds": 30, "metrics_seconds": 0}}   both default to 0, so {} ends it
  {"die": "engine"} or {"die": "api"}   SIGKILL
  {"fail": true}                    as SIM_FAIL
  {"token_seconds": 0.5}            as SIM_TOKEN_SECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hmac
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from itertools import accumulate
from typing import Any, NamedTuple

try:
    from vllm import SIMULATOR_DEFAULTS, __version__
except ImportError:  # run as a plain file, not from its wheel
    SIMULATOR_DEFAULTS, __version__ = {}, "0.33.0"

PROCESS_START = time.time()
GUARDED_PREFIXES = ("/v1", "/v2", "/inference", "/cohere")
UNCOUNTED_PATHS = ("/health", "/ping", "/load", "/version", "/metrics", "/simulator")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
KV_BLOCK_TOKENS = 16
IMAGE_TOKENS = 64
ABORT_GRACE_SECONDS = 0.5
# Of the time from the engine's death to the exit, the part in which /health still answers (503).
ANSWERING_PART = 0.6
# A saturated API server uses its processor: here a twentieth of it.
TOIL_SECONDS, TOIL_PAUSE_SECONDS = 0.005, 0.1
# A load reads: a little, and often.
WEIGHTS_BYTES, WEIGHTS_SECONDS = 1 << 20, 0.25
IMPORT_SECONDS = 1
READ_LIMIT = 64 * 1024
BODY_LIMIT = 64 * 1024 * 1024
ENGINE_DEAD = "The server had an error while processing your request."


class UsageError(Exception):
    """A start that cannot work, said in one sentence."""


# ---------------------------------------------------------------------------------------------------------------------
# Options


class Script(NamedTuple):
    """What SIM_* says; the fields are the names of the variables."""

    load_seconds: float = 0.3
    startup_failure_seconds: float | None = None
    token_seconds: float = 0.02
    answer_tokens: float = 64
    death_seconds: float = 5
    health_seconds: float = 0
    metrics_seconds: float = 0
    fail: float = 0
    hang_after_seconds: float | None = None
    die_after_seconds: float | None = None


class Settings(NamedTuple):
    """The options of vLLM that change what the simulator does."""

    model: str
    served_model_names: list[str]
    host: str
    port: int
    api_keys: list[str]
    shutdown_timeout: int
    max_num_seqs: int
    max_model_len: int
    max_num_queued_reqs: int | None
    track_load: bool
    keep_alive_seconds: float
    script: Script


def read_script(environment: Mapping[str, str]) -> Script:
    """Read the SIM_* variables."""
    values = {}
    for name, text in environment.items():
        if not name.startswith("SIM_"):
            continue
        field = name[len("SIM_") :].lower()
        if field not in Script._fields:
            raise UsageError(f"{name}: no such variable of the simulator")
        values[field] = as_number(name, text)
    return Script(**values)


def as_number(name: str, value: Any) -> float:
    """Return a time or a count that is not negative."""
    with contextlib.suppress(TypeError, ValueError):
        if float(value) >= 0:
            return float(value)
    raise UsageError(f"{name}: expected a number that is not negative, got {value!r}")


LIST_OPTIONS = {"api-key", "served-model-name"}
FLAG_OPTIONS = {"enable-server-load-tracking"}


def parse_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Return the options of a command line; the first positional argument is the model."""
    options: dict[str, Any] = {}
    taking: str | None = None
    for argument in arguments:
        if argument.startswith("-") and not argument[1:2].isdigit():
            name, equals, value = argument.lstrip("-").partition("=")
            name = name.replace("_", "-")
            if name.startswith("no-") and name[3:] in FLAG_OPTIONS:
                options[name[3:]] = False
                taking = None
                continue
            options[name] = value if equals else True
            taking = None if equals or name in FLAG_OPTIONS else name
        elif taking is None:
            options.setdefault("model", argument)
        elif taking in LIST_OPTIONS and isinstance(options[taking], list):
            options[taking].append(argument)
        else:
            options[taking] = [argument] if taking in LIST_OPTIONS else argument
            taking = taking if taking in LIST_OPTIONS else None
    return options


def read_config(path: str) -> dict[str, Any]:
    """Read a configuration file of `key: <JSON>` lines; a value that is no JSON is a plain string, as in YAML."""
    if not path.endswith((".yaml", ".yml")):
        raise UsageError(f"--config {path}: the name must end with .yaml or .yml")
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    options = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "---")):
            continue
        name, colon, value = line.partition(":")
        if not colon or line[0] in " \t-":
            raise UsageError(f"--config {path}, line {number}: expected `key: <JSON value>`")
        try:
            options[name.strip().replace("_", "-")] = json.loads(value)
        except ValueError:
            options[name.strip().replace("_", "-")] = value.strip()
    return options


def read_settings(arguments: Iterable[str], environment: Mapping[str, str]) -> Settings:
    """Merge the command line, the configuration file and the environment, and check what must be right to start."""
    options = parse_arguments(arguments)
    if "config" in options:
        options = {**read_config(str(options["config"])), **options}
    model = options.get("model")
    if not isinstance(model, str) or not model:
        raise UsageError("no model: give it as `vllm serve MODEL`, `--model MODEL` or `model:` in the file of --config")
    keys = as_list(options.get("api-key", environment.get("VLLM_API_KEY", [])))
    return Settings(
        model=model,
        served_model_names=as_list(options.get("served-model-name", [])) or [model],
        host=str(options.get("host", "")),
        port=as_integer(options, "port", 8000),
        api_keys=[key for key in keys if key],
        shutdown_timeout=as_integer(options, "shutdown-timeout", 0),
        max_num_seqs=as_integer(options, "max-num-seqs", 256),
        max_model_len=as_integer(options, "max-model-len", model_length(model)),
        max_num_queued_reqs=as_integer(options, "max-num-queued-reqs", None),
        track_load=options.get("enable-server-load-tracking", False) is True,
        keep_alive_seconds=as_number(
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", environment.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")
        ),
        script=read_script({**SIMULATOR_DEFAULTS, **environment}),
    )


def as_list(value: Any) -> list[str]:
    """Return one name or many as a list."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def as_integer(options: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return an option that is a whole number, and not negative."""
    if name not in options:
        return default
    value = options[name]
    with contextlib.suppress(TypeError, ValueError):
        if int(value) >= 0 and not isinstance(value, bool):
            return int(value)
    raise UsageError(f"--{name}: expected a whole number that is not negative, got {value!r}")


def model_length(model: str) -> int:
    """Return the context length that the model's config.json gives; a hub id is taken as it is."""
    if not os.path.isdir(model):
        if model.startswith(("/", "./", "../")):
            raise UsageError(f"model {model}: no such directory")
        return 8192
    path = os.path.join(model, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return int(json.load(file).get("max_position_embeddings", 8192))
    except OSError as error:
        raise UsageError(f"model {model}: config.json: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"model {model}: config.json: {error}") from None


# ---------------------------------------------------------------------------------------------------------------------
# The engine: a process of its own, which speaks JSON lines over a socket pair


def set_process_title(title: str) -> None:
    """Set the comm and overwrite the command line in place, as setproctitle does."""
    libc = ctypes.CDLL(None)
    libc.prctl(15, title.encode(), 0, 0, 0)  # PR_SET_NAME
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: fields 48 and 49 of proc(5)
    ctypes.memmove(start, title.encode().ljust(end - start, b"\0")[: end - start - 1] + b"\0", end - start)


class EngineRequest:
    """A request as the engine sees it."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.id: str = message["id"]
        self.prompt_tokens: int = message["prompt_tokens"]
        self.max_tokens: int = message["max_tokens"]
        self.stop_after: int | None = message["stop_after"]
        self.arrival = time.monotonic()
        self.queued_seconds = 0.0
        self.generated = 0

    def finish_reason(self) -> str | None:
        if self.stop_after is not None and self.generated >= self.stop_after:
            return "stop"
        return "length" if self.generated >= self.max_tokens else None


class Engine:
    """Runs steps: each takes token_seconds and gives a token to every running request."""

    def __init__(self, channel: socket.socket, settings: Settings) -> None:
        self.channel: socket.socket | None = channel
        self.settings = settings
        self.token_seconds = settings.script.token_seconds
        self.received = b""
        self.running: dict[str, EngineRequest] = {}
        self.waiting: deque[EngineRequest] = deque()
        self.step_end: float | None = None
        self.terminating = False
        self.worker_gone = False
        self.wakeup, wakeup_end = socket.socketpair()
        for end in (self.wakeup, wakeup_end):
            end.setblocking(False)
        self.wakeup_end = wakeup_end

    def run(self) -> None:
        """Load, then serve until a signal ends the process: the loss of the API server does not."""
        signal.set_wakeup_fd(self.wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._load()
        while not self.terminating or self._survives_termination():
            if self._wait():
                self._receive()
            if self.step_end is not None and time.monotonic() >= self.step_end:
                self._step()
        self._abort(list(self.running) + [request.id for request in self.waiting], "abort")

    def _on_signal(self, *_: Any) -> None:
        self.terminating = True

    def _load(self) -> None:
        failure = self.settings.script.startup_failure_seconds
        deadline = time.monotonic() + (self.settings.script.load_seconds if failure is None else failure)
        with open("/dev/zero", "rb", buffering=0) as weights:
            while time.monotonic() < deadline and not self.terminating:
                weights.read(WEIGHTS_BYTES)
                select.select([self.wakeup], [], [], min(WEIGHTS_SECONDS, max(0, deadline - time.monotonic())))
        if self.terminating:
            raise SystemExit(0)
        if failure is not None:
            raise RuntimeError("start-up failure, as scripted")
        self._send({"ready": True})

    def _survives_termination(self) -> bool:
        """Tell whether SIGTERM leaves the process alive: its worker dies, so a drain can only run out of time."""
        self.worker_gone = self.channel is not None and self.settings.shutdown_timeout > 0
        return self.worker_gone

    def _wait(self) -> bool:
        """Wait for a message, a signal or the end of the step; tell whether it is a message."""
        timeout = None
        channels = [self.channel] if self.channel else []
        if self.worker_gone:
            self.step_end, channels = None, []
        elif self.step_end is not None:
            timeout = max(0.0, self.step_end - time.monotonic())
        ready, _writable, _broken = select.select([self.wakeup, *channels], [], [], timeout)
        if self.wakeup in ready:
            self.wakeup.recv(4096)
        return self.channel in ready

    def _receive(self) -> None:
        assert self.channel
        try:
            data = self.channel.recv(READ_LIMIT)
        except ConnectionError:
            data = b""
        if not data:
            self._orphaned()
            return
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _orphaned(self) -> None:
        """Live on without an API server, and without work."""
        if self.channel:
            self.channel.close()
        self.channel = None
        self.running.clear()
        self.waiting.clear()
        self.step_end = None

    def _obey(self, message: Mapping[str, Any]) -> None:
        if "add" in message:
            self.waiting.append(EngineRequest(message["add"]))
            if self.step_end is None:
                self._schedule()
        if "abort" in message:
            self._abort(message["abort"], None)
        if "abort_all" in message:
            self._abort(list(self.running) + [request.id for request in self.waiting], "abort")
        self.token_seconds = message.get("token_seconds", self.token_seconds)

    def _abort(self, ids: list[str], reason: str | None) -> None:
        """Drop requests; with a reason, tell the API server of each."""
        for identity in ids:
            self.running.pop(identity, None)
        self.waiting = deque(request for request in self.waiting if request.id not in ids)
        if not self.running:
            self._schedule()
        self._send({"outputs": [[identity, reason, None] for identity in ids if reason], "stats": self._stats()})

    def _schedule(self) -> None:
        """Admit what fits and begin a step."""
        now = time.monotonic()
        while self.waiting and len(self.running) < self.settings.max_num_seqs:
            request = self.waiting.popleft()
            request.queued_seconds = now - request.arrival
            self.running[request.id] = request
        self.step_end = now + self.token_seconds if self.running else None

    def _step(self) -> None:
        """End a step: a token for each running request."""
        outputs: list[list[Any]] = []
        tokens = len(self.running)
        for request in list(self.running.values()):
            request.generated += 1
            first = request.generated == 1
            if first:
                tokens += request.prompt_tokens
            reason = request.finish_reason()
            if reason:
                del self.running[request.id]
            outputs.append([request.id, reason, request.queued_seconds if first else None])
        self._schedule()
        self._send({"outputs": outputs, "step_tokens": tokens, "stats": self._stats()})

    def _stats(self) -> dict[str, float]:
        held = [request.prompt_tokens + request.generated for request in self.running.values()]
        blocks = sum(-(-tokens // KV_BLOCK_TOKENS) for tokens in held)
        capacity = self.settings.max_num_seqs * -(-self.settings.max_model_len // KV_BLOCK_TOKENS)
        return {"running": len(self.running), "waiting": len(self.waiting), "kv_usage": blocks / capacity}

    def _send(self, message: Mapping[str, Any]) -> None:
        if self.channel is None:
            return
        try:
            self.channel.sendall(json.dumps(message).encode() + b"\n")
        except ConnectionError:
            self._orphaned()


def start_engine(settings: Settings, listener: socket.socket) -> tuple[int, socket.socket]:
    """Start the engine's process; fork, so that the two share what Python has loaded."""
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        ours.close()
        listener.close()
        set_process_title("VLLM::EngineCore")
        Engine(theirs, settings).run()
        status = 0
    except SystemExit:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def one_two_five(limit: int) -> list[float]:
    """Return 1, 2, 5, 10, 20, ... up to the limit."""
    return [digit * 10**power for power in range(len(str(limit))) for digit in (1, 2, 5) if digit * 10**power <= limit]


REQUEST_BUCKETS = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
FIRST_TOKEN_BUCKETS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
FIRST_TOKEN_BUCKETS += [160, 640, 2560]
TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
STEP_BUCKETS = [1.0, *(float(2**power) for power in range(3, 15))]

# name: (help, extra label, its values)
GAUGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "num_requests_running": ("Number of requests in model execution batches.", "", ()),
    "num_requests_waiting": ("Number of requests waiting to be processed.", "", ()),
    "num_requests_waiting_by_reason": ("Number of waiting requests by reason.", "reason", ("capacity", "deferred")),
    "engine_sleep_state": ("Engine sleep state.", "sleep_state", ("awake", "weights_offloaded", "discard_all")),
    "kv_cache_usage_perc": ("KV-cache usage. 1 means 100 percent usage.", "", ()),
}
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "estimated_flops_per_gpu": ("Estimated number of floating point operations per GPU.", "", ()),
    "estimated_read_bytes_per_gpu": ("Estimated number of bytes read from memory per GPU.", "", ()),
    "estimated_write_bytes_per_gpu": ("Estimated number of bytes written to memory per GPU.", "", ()),
    "prefix_cache_queries": ("Prefix cache queries, in terms of number of queried tokens.", "", ()),
    "prefix_cache_hits": ("Prefix cache hits, in terms of number of cached tokens.", "", ()),
    "external_prefix_cache_queries": ("External prefix cache queries from KV connector.", "", ()),
    "external_prefix_cache_hits": ("External prefix cache hits from KV connector.", "", ()),
    "mm_cache_queries": ("Multi-modal cache queries, in terms of number of queried items.", "", ()),
    "mm_cache_hits": ("Multi-modal cache hits, in terms of number of cached items.", "", ()),
    "num_preemptions": ("Cumulative number of preemption from the engine.", "", ()),
    "prompt_tokens": ("Number of prefill tokens processed.", "", ()),
    "prompt_tokens_by_source": (
        "Number of prompt tokens by source.",
        "source",
        ("local_compute", "local_cache_hit", "external_kv_transfer"),
    ),
    "prompt_tokens_cached": ("Number of cached prompt tokens (local + external).", "", ()),
    "prompt_tokens_cached_by_source": (
        "Prefix-cache hit tokens by the cache tier that supplied them.",
        "source",
        ("device", "host", "disk", "p2p", "external_unspecified"),
    ),
    "generation_tokens": ("Number of generation tokens processed.", "", ()),
    "request_success": (
        "Count of successfully processed requests.",
        "finished_reason",
        ("stop", "length", "abort", "error", "repetition"),
    ),
    "admission_rejections": (
        "Count of requests rejected at admission.",
        "reason",
        ("max_num_queued_reqs", "max_num_queued_tokens"),
    ),
}


class Histogram:
    """Counts by upper bound."""

    def __init__(self, documentation: str, bounds: list[float]) -> None:
        self.documentation = documentation
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """The /metrics page."""

    def __init__(self, settings: Settings) -> None:
        self.created = time.time()
        self.model_name = settings.served_model_names[0]
        self.values: dict[tuple[str, str], float] = {}
        for name, (_documentation, label, values) in {**GAUGES, **COUNTERS}.items():
            self.values.update({(name, value): 0.0 for value in (values if label else ("",))})
        self.values["engine_sleep_state", "awake"] = 1.0
        lengths = one_two_five(settings.max_model_len)
        self.histograms = {
            "request_prompt_tokens": Histogram("Number of prefill tokens processed.", lengths),
            "request_generation_tokens": Histogram("Number of generation tokens processed.", lengths),
            "iteration_tokens_total": Histogram("Histogram of number of tokens per engine_step.", STEP_BUCKETS),
            "request_max_num_generation_tokens": Histogram("Maximum number of requested generation tokens.", lengths),
            "request_params_n": Histogram("Histogram of the n request parameter.", [1, 2, 5, 10, 20]),
            "request_params_max_tokens": Histogram("Histogram of the max_tokens request parameter.", lengths),
            "time_to_first_token_seconds": Histogram("Time to first token in seconds.", FIRST_TOKEN_BUCKETS),
            "inter_token_latency_seconds": Histogram("Inter-token latency in seconds.", TOKEN_BUCKETS),
            "request_time_per_output_token_seconds": Histogram("Time per output token per request.", TOKEN_BUCKETS),
            "e2e_request_latency_seconds": Histogram("End to end request latency in seconds.", REQUEST_BUCKETS),
            "request_queue_time_seconds": Histogram("Time spent in WAITING phase for request.", REQUEST_BUCKETS),
            "request_inference_time_seconds": Histogram("Time spent in RUNNING phase for request.", REQUEST_BUCKETS),
            "request_prefill_time_seconds": Histogram("Time spent in PREFILL phase for request.", REQUEST_BUCKETS),
            "request_decode_time_seconds": Histogram("Time spent in DECODE phase for request.", REQUEST_BUCKETS),
            "request_num_preemptions": Histogram("Number of times a request was preempted.", [1, 2, 3, 4, 5, 10, 20]),
            "request_prefill_kv_computed_tokens": Histogram("New KV tokens computed during prefill.", lengths),
        }
        self.http_requests: dict[tuple[str, str, str], int] = {}

    def add(self, counter: str, amount: float = 1, label: str = "") -> None:
        self.values[counter, label] += amount

    def observe(self, histogram: str, value: float) -> None:
        self.histograms[histogram].observe(value)

    def count_http(self, handler: str, method: str, status: int) -> None:
        key = (handler, method, f"{status // 100}xx")
        self.http_requests[key] = self.http_requests.get(key, 0) + 1

    def take_step(self, tokens: float | None, stats: Mapping[str, float]) -> None:
        """Take over what the engine pushed: only it moves the step counter and these gauges."""
        if tokens is not None:
            self.observe("iteration_tokens_total", tokens)
        self.values["num_requests_running", ""] = stats["running"]
        self.values["num_requests_waiting", ""] = stats["waiting"]
        self.values["num_requests_waiting_by_reason", "capacity"] = stats["waiting"]
        self.values["kv_cache_usage_perc", ""] = stats["kv_usage"]

    def first_token(self, generation: Generation, now: float) -> None:
        """Count a first token, and with it the prompt."""
        tokens = generation.wanted.prompt_tokens
        self.add("generation_tokens")
        self.add("prompt_tokens", tokens)
        self.add("prompt_tokens_by_source", tokens, "local_compute")
        self.add("prefix_cache_queries", tokens)
        self.observe("time_to_first_token_seconds", now - generation.arrival)

    def next_token(self, seconds: float) -> None:
        self.add("generation_tokens")
        self.observe("inter_token_latency_seconds", seconds)

    def finished(self, generation: Generation, reason: str) -> None:
        """Count a request that the engine has ended."""
        queued = generation.queued_seconds
        whole = generation.last_token - generation.arrival
        decode = generation.last_token - generation.first_token
        observations = {
            "e2e_request_latency_seconds": whole,
            "request_queue_time_seconds": queued,
            "request_inference_time_seconds": whole - queued,
            "request_prefill_time_seconds": whole - decode - queued,
            "request_decode_time_seconds": decode,
            "request_time_per_output_token_seconds": decode / max(1, generation.tokens - 1),
            "request_prompt_tokens": generation.wanted.prompt_tokens,
            "request_prefill_kv_computed_tokens": generation.wanted.prompt_tokens,
            "request_generation_tokens": generation.tokens,
            "request_max_num_generation_tokens": generation.tokens,
            "request_params_n": 1,
            "request_params_max_tokens": generation.wanted.max_tokens,
            "request_num_preemptions": 0,
        }
        for name, value in observations.items():
            self.observe(name, value)
        self.add("request_success", label=reason)

    def page(self) -> str:
        """Return the page in the text format of Prometheus."""
        lines = [*self._process(), *self._gauges(), *self._counters(), *self._histograms(), *self._http()]
        return "\n".join(lines) + "\n"

    def _labels(self, **extra: str) -> str:
        pairs = sorted({"engine": "0", "model_name": self.model_name, **extra}.items())
        return "{" + ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs if value) + "}"

    def _process(self) -> Iterable[str]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = [int(field) for field in file.read().split()[:2]]
        gauges = {
            "process_virtual_memory_bytes": pages[0] * resource.getpagesize(),
            "process_resident_memory_bytes": pages[1] * resource.getpagesize(),
            "process_start_time_seconds": PROCESS_START,
            "process_open_fds": len(os.listdir("/proc/self/fd")),
            "process_max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }
        for name, value in gauges.items():
            yield from family(name, "gauge", "About the process of the API server.")
            yield f"{name} {float(value)}"
        yield from family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
        yield f"process_cpu_seconds_total {usage.ru_utime + usage.ru_stime}"

    def _gauges(self) -> Iterable[str]:
        for name, (documentation, label, values) in GAUGES.items():
            yield from family(f"vllm:{name}", "gauge", documentation)
            for value in values if label else ("",):
                yield f"vllm:{name}{self._labels(**{label: value} if label else {})} {float(self.values[name, value])}"

    def _counters(self) -> Iterable[str]:
        for name, (documentation, label, values) in COUNTERS.items():
            # This one is counted by the API server, for no engine.
            no_engine = {"engine": ""} if name == "admission_rejections" else {}
            labelled = [
                (self._labels(**{label: value} if label else {}, **no_engine), self.values[name, value])
                for value in (values if label else ("",))
            ]
            yield from family(f"vllm:{name}_total", "counter", documentation)
            yield from (f"vllm:{name}_total{labels} {float(value)}" for labels, value in labelled)
            yield from family(f"vllm:{name}_created", "gauge", documentation)
            yield from (f"vllm:{name}_created{labels} {self.created}" for labels, _value in labelled)

    def _histograms(self) -> Iterable[str]:
        labels = self._labels()
        for name, histogram in self.histograms.items():
            yield from family(f"vllm:{name}", "histogram", histogram.documentation)
            counts = list(accumulate(histogram.counts))
            bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
            for bound, count in zip(bounds, counts):
                yield f"vllm:{name}_bucket{self._labels(le=bound)} {float(count)}"
            yield f"vllm:{name}_count{labels} {float(counts[-1])}"
            yield f"vllm:{name}_sum{labels} {float(histogram.total)}"
            yield from family(f"vllm:{name}_created", "gauge", histogram.documentation)
            yield f"vllm:{name}_created{labels} {self.created}"

    def _http(self) -> Iterable[str]:
        yield from family("http_requests_total", "counter", "Total number of requests by method, status and handler.")
        for (handler, method, status), count in self.http_requests.items():
            yield f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}} {float(count)}'


def family(name: str, kind: str, documentation: str) -> tuple[str, str]:
    """Return the two lines that open a metric family."""
    return f"# HELP {name} {documentation}", f"# TYPE {name} {kind}"


# ---------------------------------------------------------------------------------------------------------------------
# HTTP


class HttpError(Exception):
    """An answer that is an error in the form of the OpenAI API."""

    def __init__(self, status: int, message: str, kind: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        default = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
        self.body = {
            "error": {"message": message, "type": kind or default[status], "param": param, "code": int(status)}
        }


class HttpRequest(NamedTuple):
    method: str
    path: str
    version: str
    headers: dict[str, str]
    body: bytes

    def keep_alive(self) -> bool:
        return self.version != "HTTP/1.0" and "close" not in self.headers.get("connection", "").lower()

    def json(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object that says that it is JSON."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise HttpError(400, message, "Bad Request")
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise HttpError(400, f"1 validation error:\n  JSON decode error: {error}", "Bad Request", "body") from None
        if not isinstance(value, dict):
            raise HttpError(400, "1 validation error:\n  Input should be a valid dictionary", "Bad Request", "body")
        return value


class BadRequest(Exception):
    """Bytes that are not HTTP."""


def split_request(data: bytes) -> tuple[HttpRequest, bytes] | None:
    """Return the first request of the data and the rest, or None if it is not complete."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        if len(data) > READ_LIMIT:
            raise BadRequest("request head too long")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            split = split_chunks(rest)
        else:
            length = int(headers.get("content-length", 0))
            split = (rest[:length], rest[length:]) if len(rest) >= length else None
    except ValueError:
        raise BadRequest("not an HTTP request") from None
    if split is None:
        if len(rest) > BODY_LIMIT:
            raise BadRequest("request body too long")
        return None
    return HttpRequest(method, target.partition("?")[0], version, headers, split[0]), split[1]


def split_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    """Return a chunked body and what follows it, or None if it is not complete."""
    body = b""
    while True:
        size, newline, data = data.partition(b"\r\n")
        if not newline:
            return None
        length = int(size.partition(b";")[0], 16)
        if len(data) < length + 2:
            return None
        if length == 0:
            return body, data[2:]
        body, data = body + data[:length], data[length + 2 :]


class Exchange:
    """A request, and the way to answer it."""

    def __init__(self, request: HttpRequest, transport: asyncio.Transport) -> None:
        self.request = request
        self.transport = transport

    def respond(self, status: int, body: bytes = b"", kind: str = "", headers: str = "") -> None:
        """Answer in one piece."""
        content = f"content-length: {len(body)}\r\n" + (f"content-type: {kind}\r\n" if kind else "")
        self.transport.write(self._head(status, content + headers) + (b"" if self.request.method == "HEAD" else body))

    def json(self, body: Any, status: int = 200, headers: str = "") -> None:
        self.respond(status, compact(body).encode(), "application/json", headers)

    def begin_stream(self) -> None:
        """Begin an answer of server-sent events; HTTP/1.0 ends it by closing the connection."""
        self.chunked = self.request.version != "HTTP/1.0"
        encoding = "transfer-encoding: chunked\r\n" if self.chunked else ""
        self.transport.write(self._head(200, f"content-type: text/event-stream; charset=utf-8\r\n{encoding}"))

    def event(self, data: str) -> None:
        """Send a server-sent event."""
        payload = f"data: {data}\n\n".encode()
        self.transport.write(b"%x\r\n%s\r\n" % (len(payload), payload) if self.chunked else payload)

    def end_stream(self) -> None:
        if self.chunked:
            self.transport.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: str) -> bytes:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ndate: {date}\r\nserver: uvicorn\r\n"
        last = "" if self.request.keep_alive() else "connection: close\r\n"
        return f"{first}{headers}{last}\r\n".encode("latin-1")


class Connection(asyncio.Protocol):
    """A client's connection: one request at a time, each in a task that ends when the client leaves."""

    transport: asyncio.Transport

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.data = b""
        self.task: asyncio.Task[None] | None = None
        self.idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.idle:
            self.idle.cancel()
        if self.task:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self.idle.cancel()
        self.data += data
        self._next()

    def _next(self) -> None:
        """Begin the next request, if it is there and none is running."""
        if self.task or self.transport.is_closing():
            return
        try:
            split = split_request(self.data)
        except BadRequest as error:
            Exchange(HttpRequest("", "", "HTTP/1.0", {}, b""), self.transport).respond(400, str(error).encode())
            self.transport.close()
            return
        if split is None:
            head, blank, _body = self.data.partition(b"\r\n\r\n")
            if blank and b"100-continue" in head.lower():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request, self.data = split
        self.task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        try:
            await self.server.answer(Exchange(request, self.transport))
        except Exception:
            traceback.print_exc()
            self.transport.abort()
        finally:
            self.task = None
            self._after(request)
            self.server.connection_rests()

    def _after(self, request: HttpRequest) -> None:
        if self.transport.is_closing() or not request.keep_alive() or self.server.stopping:
            self.transport.close()
        elif self.data:
            self._next()
        else:
            seconds = self.server.settings.keep_alive_seconds
            self.idle = asyncio.get_running_loop().call_later(seconds, self.transport.close)


# ---------------------------------------------------------------------------------------------------------------------
# Requests for tokens, and how the two APIs word them

FINGERPRINT = f"vllm-{__version__}-simulator"


class Form(NamedTuple):
    """The words of one of the two APIs."""

    prefix: str
    kind: str
    chunk_kind: str
    opening: dict[str, Any] | None
    whole: Callable[[str], dict[str, Any]]
    delta: Callable[[str], dict[str, Any]]


COMPLETION = Form(
    prefix="cmpl",
    kind="text_completion",
    chunk_kind="text_completion",
    opening=None,
    whole=lambda text: {"text": text},
    delta=lambda text: {"text": text},
)
CHAT = Form(
    prefix="chatcmpl",
    kind="chat.completion",
    chunk_kind="chat.completion.chunk",
    opening={"delta": {"role": "assistant", "content": ""}},
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None, "reasoning": None}},
    delta=lambda text: {"delta": {"content": text}},
)


class TokenRequest(NamedTuple):
    """What a body asks for."""

    form: Form
    model: str
    prompt_tokens: int
    max_tokens: int
    stop_after: int | None
    stream: bool
    stream_usage: bool


def read_token_request(body: dict[str, Any], form: Form, settings: Settings) -> TokenRequest:
    """Check a body as the real server does."""
    names, limit = settings.served_model_names, settings.max_model_len
    model = body.get("model") or names[0]
    if model not in names:
        aliases = ", ".join(names)
        raise HttpError(404, f"The model `{model}` does not exist. Valid aliases: {aliases}.", param="model")
    words = chat_words(body.get("messages")) if form is CHAT else prompt_words(body.get("prompt"))
    if len(words) >= limit:
        message = f"This model's maximum context length is {limit} tokens. However, your prompt contains {len(words)}"
        raise HttpError(400, f"{message} input tokens.", param="input_tokens")
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    if max_tokens is None:
        max_tokens = limit if form is CHAT else 16
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise HttpError(400, f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
    if max_tokens > limit:
        message = f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}."
        raise HttpError(400, message, param="max_tokens")
    return TokenRequest(
        form=form,
        model=model,
        prompt_tokens=len(words),
        max_tokens=min(max_tokens, limit - len(words)),
        stop_after=None if body.get("ignore_eos") else int(settings.script.answer_tokens),
        stream=bool(body.get("stream")),
        stream_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def prompt_words(prompt: Any) -> list[str]:
    """Return the tokens of a prompt: words, or the ids as they are."""
    if isinstance(prompt, str) and prompt:
        return prompt.split() or [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return [str(token) for token in prompt]
    if isinstance(prompt, list) and len(prompt) == 1:
        return prompt_words(prompt[0])
    if isinstance(prompt, list) and prompt:
        raise HttpError(400, "The simulator takes one prompt a request.", param="prompt")
    raise HttpError(400, "Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")


def chat_words(messages: Any) -> list[str]:
    """Return the tokens of a chat: a few for each message, the words of texts, and as many for each image."""
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise HttpError(400, "1 validation error:\n  messages: Field required", "Bad Request", "body.messages")
    words = []
    for message in messages:
        content = message.get("content") or ""
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        words += ["<|im_start|>", str(message.get("role")), "<|im_end|>"]
        for part in parts:
            words += str(part.get("text")).split() if part.get("type") == "text" else ["<|image_pad|>"] * IMAGE_TOKENS
    return words


class Generation:
    """A request for tokens under way."""

    def __init__(self, wanted: TokenRequest) -> None:
        self.wanted = wanted
        self.id = f"{wanted.form.prefix}-{os.urandom(8).hex()}"
        self.created = int(time.time())
        self.arrival = self.first_token = self.last_token = time.monotonic()
        self.queued_seconds = 0.0
        self.tokens = 0
        self.outputs: asyncio.Queue[str | HttpError | None] = asyncio.Queue()

    async def finish_reasons(self) -> AsyncIterator[str | None]:
        """Yield a finish reason for each token: None but for the last. An abort comes without a token."""
        reason = None
        while not reason:
            output = await self.outputs.get()
            if isinstance(output, HttpError):
                raise output
            reason = output
            yield reason

    def whole(self, reason: str | None) -> dict[str, Any]:
        """Return the answer in one piece."""
        form = self.wanted.form
        text = "".join(f" {number}" for number in range(self.tokens))
        answer = self._envelope(form.kind, [self._choice(form.whole(text), reason)])
        return {**answer, "system_fingerprint": FINGERPRINT, "usage": self._usage()}

    def chunk(self, text: str, reason: str | None) -> dict[str, Any]:
        """Return the piece of a streamed answer that holds one token."""
        form = self.wanted.form
        chunk = self._envelope(form.chunk_kind, [self._choice(form.delta(text), reason)])
        return {**chunk, "system_fingerprint": FINGERPRINT} if reason and not self.wanted.stream_usage else chunk

    def opening_chunk(self) -> dict[str, Any] | None:
        """Return the piece before the first token, which only a chat has."""
        form = self.wanted.form
        return self._envelope(form.chunk_kind, [self._choice(form.opening, None)]) if form.opening else None

    def usage_chunk(self) -> dict[str, Any]:
        """Return the piece after the last token, for a client that asked for it."""
        answer = self._envelope(self.wanted.form.chunk_kind, [])
        return {**answer, "usage": self._usage(), "system_fingerprint": FINGERPRINT}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.wanted.model, "choices": choices}

    def _choice(self, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason, "stop_reason": None}

    def _usage(self) -> dict[str, int]:
        prompt = self.wanted.prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + self.tokens, "completion_tokens": self.tokens}


# ---------------------------------------------------------------------------------------------------------------------
# The API server


class EngineClient(asyncio.Protocol):
    """The API server's side of the engine: the requests in flight, and what the engine says of them."""

    transport: asyncio.Transport

    def __init__(self, pid: int, metrics: Metrics, died: Callable[[], None]) -> None:
        self.pid = pid
        self.metrics = metrics
        self.died = died
        self.received = b""
        self.generations: dict[str, Generation] = {}
        self.drained = asyncio.Event()
        self.hung = self.dead = self.dismissed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def connection_lost(self, _exc: Exception | None) -> None:
        """Note the engine's end: requests in flight fail, unless it was the API server that ended it."""
        self.dead = True
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if self.dismissed:
            return
        for generation in self.generations.values():
            generation.outputs.put_nowait(HttpError(500, ENGINE_DEAD))
        self.generations.clear()
        self.drained.set()
        self.died()

    def start(self, generation: Generation) -> None:
        """Hand a request to the engine."""
        self.generations[generation.id] = generation
        wanted = generation.wanted
        self._send(
            {
                "add": {
                    "id": generation.id,
                    "prompt_tokens": wanted.prompt_tokens,
                    "max_tokens": wanted.max_tokens,
                    "stop_after": wanted.stop_after,
                }
            }
        )

    def end(self, generation: Generation) -> None:
        """Forget a request; tell the engine, if it was not the engine that ended it."""
        if self.generations.pop(generation.id, None):
            self._send({"abort": [generation.id]})
        if not self.generations:
            self.drained.set()

    async def wait_drained(self, seconds: float) -> None:
        """Wait until no request is in flight, or the time is over."""
        if self.generations:
            self.drained.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.drained.wait(), seconds)

    async def dismiss(self) -> None:
        """Let the engine abort what is in flight, if it can, and kill it."""
        self._send({"abort_all": True})
        await self.wait_drained(ABORT_GRACE_SECONDS)
        self.dismissed = True
        self.signal(signal.SIGKILL)

    def set_pace(self, seconds: float) -> None:
        self._send({"token_seconds": seconds})

    def signal(self, number: int) -> None:
        if not self.dead:
            if number in (signal.SIGSTOP, signal.SIGCONT):
                self.hung = number == signal.SIGSTOP
            os.kill(self.pid, number)

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self.dead:
            self.transport.write(json.dumps(message).encode() + b"\n")

    def _take(self, message: Mapping[str, Any]) -> None:
        """Take the outcome of an engine step."""
        self.metrics.take_step(message.get("step_tokens"), message["stats"])
        now = time.monotonic()
        for identity, reason, queued_seconds in message["outputs"]:
            generation = self.generations.get(identity)
            if generation:
                self._take_output(generation, reason, queued_seconds, now)

    def _take_output(self, generation: Generation, reason: str | None, queued: float | None, now: float) -> None:
        if queued is not None:
            generation.queued_seconds, generation.first_token = queued, now
            self.metrics.first_token(generation, now)
        elif reason != "abort":
            self.metrics.next_token(now - generation.last_token)
        generation.tokens += reason != "abort"
        generation.last_token = now
        if reason:
            del self.generations[generation.id]
            self.metrics.finished(generation, reason)
        generation.outputs.put_nowait(reason)


class Faults:
    """What the script has changed: POST /simulator changes it, GET shows it."""

    def __init__(self, script: Script, engine: EngineClient) -> None:
        self.engine = engine
        self.health_seconds, self.metrics_seconds = script.health_seconds, script.metrics_seconds
        self.token_seconds, self.fail = script.token_seconds, bool(script.fail)
        self.orders: dict[str, Callable[[Any], None]] = {
            "hang": lambda _: engine.signal(signal.SIGSTOP),
            "resume": lambda _: engine.signal(signal.SIGCONT),
            "saturate": self._saturate,
            "die": self._die,
            "fail": self._set_fail,
            "token_seconds": self._set_pace,
        }
        loop = asyncio.get_running_loop()
        if script.hang_after_seconds is not None:
            loop.call_later(script.hang_after_seconds, engine.signal, signal.SIGSTOP)
        if script.die_after_seconds is not None:
            loop.call_later(script.die_after_seconds, engine.signal, signal.SIGKILL)

    async def show(self, exchange: Exchange) -> None:
        state = {
            "engine_pid": self.engine.pid,
            "engine_dead": self.engine.dead,
            "hung": self.engine.hung,
            "fail": self.fail,
            "health_seconds": self.health_seconds,
            "metrics_seconds": self.metrics_seconds,
            "token_seconds": self.token_seconds,
            "in_flight": len(self.engine.generations),
        }
        exchange.json(state)

    async def follow(self, exchange: Exchange) -> None:
        """Follow the orders of a body; one that it does not know stops the rest."""
        try:
            orders = json.loads(exchange.request.body)
            if not isinstance(orders, dict):
                raise UsageError("expected a JSON object")
            unknown = set(orders) - set(self.orders)
            if unknown:
                raise UsageError(f"{', '.join(sorted(unknown))}: the simulator knows {', '.join(self.orders)}")
            for order, value in orders.items():
                self.orders[order](value)
        except (UsageError, ValueError, TypeError) as error:
            raise HttpError(400, str(error)) from None
        await self.show(exchange)

    def _saturate(self, value: dict[str, Any]) -> None:
        unknown = set(value) - {"health_seconds", "metrics_seconds"}
        if unknown:
            raise UsageError(f"saturate: {', '.join(sorted(unknown))}: expected health_seconds, metrics_seconds")
        self.health_seconds = as_number("health_seconds", value.get("health_seconds", 0))
        self.metrics_seconds = as_number("metrics_seconds", value.get("metrics_seconds", 0))

    def _die(self, value: str) -> None:
        if value not in ("engine", "api"):
            raise UsageError(f"die: expected engine or api, got {value!r}")
        if value == "engine":
            self.engine.signal(signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def _set_fail(self, value: Any) -> None:
        self.fail = bool(value)

    def _set_pace(self, value: Any) -> None:
        self.token_seconds = as_number("token_seconds", value)
        self.engine.set_pace(self.token_seconds)


async def toil(seconds: float) -> None:
    """Take that long, and some of the processor: a saturated server computes all the while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Of its own time: a machine with much else to do must not make it look idle.
        slice_end = time.process_time() + TOIL_SECONDS
        while time.process_time() < slice_end:
            pass
        await asyncio.sleep(TOIL_PAUSE_SECONDS)


Handler = Callable[[Exchange], Awaitable[None]]


class ApiServer:
    """The routes, and the life of the server."""

    engine: EngineClient
    faults: Faults
    listener: asyncio.AbstractServer

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings)
        self.load = 0
        self.connections: set[Connection] = set()
        self.shutdown: asyncio.Task[None] | None = None
        self.stopping = False
        self.quiet = asyncio.Event()
        self.finished = asyncio.Event()

    async def run(self, listener: socket.socket, pid: int, channel: socket.socket) -> None:
        """Serve until a signal or the engine's death ends it."""
        loop = asyncio.get_running_loop()
        _transport, self.engine = await loop.create_connection(
            lambda: EngineClient(pid, self.metrics, self._engine_died), sock=channel
        )
        self.faults = Faults(self.settings.script, self.engine)
        self.routes = self._routes()
        self.listener = await loop.create_server(lambda: Connection(self), sock=listener, backlog=2048)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop)
        log("INFO", "Application startup complete.")
        await self.finished.wait()

    # Routes

    def _routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/health": {"GET": self.health},
            "/ping": {"GET": self.health, "POST": self.health},
            "/load": {"GET": self.server_load},
            "/version": {"GET": self.version},
            "/metrics": {"GET": self.metrics_page},
            "/v1/models": {"GET": self.models},
            "/v1/completions": {"POST": self.completions},
            "/v1/chat/completions": {"POST": self.chat_completions},
            "/tokenize": {"POST": self.tokenize},
            "/invocations": {"POST": self.invocations},
            "/simulator": {"GET": self.faults.show, "POST": self.faults.follow},
        }

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, and count it as the real instrumentation does."""
        request = exchange.request
        if not self._authorized(request):
            exchange.json({"error": "Unauthorized"}, 401)
            return
        methods = self.routes.get(request.path, {})
        handler = methods.get(request.method)
        status = 200
        if handler:
            try:
                await handler(exchange)
            except HttpError as error:
                status = error.status
                exchange.json(error.body, status)
        elif methods:
            status = 405
            exchange.json({"detail": "Method Not Allowed"}, status, f"allow: {', '.join(methods)}\r\n")
        else:
            status = 404
            exchange.json({"detail": "Not Found"}, status)
        if request.path not in UNCOUNTED_PATHS:
            self.metrics.count_http(request.path if handler else "none", request.method, status)

    def _authorized(self, request: HttpRequest) -> bool:
        keys = self.settings.api_keys
        if not keys or request.method == "OPTIONS" or not request.path.startswith(GUARDED_PREFIXES):
            return True
        scheme, _space, given = request.headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
        return scheme.lower() == "bearer" and any(matches)

    async def health(self, exchange: Exchange) -> None:
        """Answer from a flag: the engine is not asked."""
        await toil(self.faults.health_seconds)
        exchange.respond(503 if self.engine.dead else 200)

    async def server_load(self, exchange: Exchange) -> None:
        exchange.json({"server_load": self.load})

    async def version(self, exchange: Exchange) -> None:
        exchange.json({"version": __version__})

    async def metrics_page(self, exchange: Exchange) -> None:
        await toil(self.faults.metrics_seconds)
        exchange.respond(200, self.metrics.page().encode(), "text/plain; version=1.0.0; charset=utf-8")

    async def models(self, exchange: Exchange) -> None:
        created = int(self.metrics.created)
        data: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": self.settings.model,
                "parent": None,
                "max_model_len": self.settings.max_model_len,
                "permission": [],
            }
            for name in self.settings.served_model_names
        ]
        exchange.json({"object": "list", "data": data})

    async def tokenize(self, exchange: Exchange) -> None:
        body = exchange.request.json()
        words = chat_words(body["messages"]) if "messages" in body else prompt_words(body.get("prompt"))
        answer = {
            "count": len(words),
            "max_model_len": self.settings.max_model_len,
            "tokens": [zlib.crc32(word.encode()) % 32768 for word in words],
            "token_strs": words if body.get("return_token_strs") else None,
        }
        exchange.json(answer)

    async def completions(self, exchange: Exchange) -> None:
        await self._generate(exchange, COMPLETION)

    async def chat_completions(self, exchange: Exchange) -> None:
        await self._generate(exchange, CHAT)

    async def invocations(self, exchange: Exchange) -> None:
        """Serve what SageMaker calls: a chat or a completion, by what the body has."""
        await self._generate(exchange, CHAT if "messages" in exchange.request.json() else COMPLETION)

    # Tokens

    async def _generate(self, exchange: Exchange, form: Form) -> None:
        """Answer a request for tokens; the load counts it until its client has the answer or has left."""
        tracked = int(self.settings.track_load)
        self.load += tracked
        try:
            wanted = read_token_request(exchange.request.json(), form, self.settings)
            self._admit()
            generation = Generation(wanted)
            self.engine.start(generation)
            try:
                await (self._stream if wanted.stream else self._collect)(exchange, generation)
            finally:
                self.engine.end(generation)
        finally:
            self.load -= tracked

    def _admit(self) -> None:
        """Refuse a request that the server is in no state to take."""
        if self.engine.dead:
            self._end_soon()
            raise HttpError(500, ENGINE_DEAD)
        if self.shutdown:
            raise HttpError(500, "cannot schedule new futures after shutdown")
        if self.faults.fail:
            raise HttpError(500, "failure, as scripted")
        limit = self.settings.max_num_queued_reqs
        if limit is not None and len(self.engine.generations) >= limit:
            self.metrics.add("admission_rejections", label="max_num_queued_reqs")
            message = "The engine is currently busy and cannot accept new requests. "
            raise HttpError(503, f"{message}Please try again later or on a different instance.", "Service Unavailable")

    async def _collect(self, exchange: Exchange, generation: Generation) -> None:
        try:
            reasons = [reason async for reason in generation.finish_reasons()]
        except HttpError:
            self._end_soon()
            raise
        exchange.json(generation.whole(reasons[-1]))

    async def _stream(self, exchange: Exchange, generation: Generation) -> None:
        exchange.begin_stream()
        opening = generation.opening_chunk()
        if opening:
            exchange.event(compact(opening))
        number = 0
        try:
            async for reason in generation.finish_reasons():
                exchange.event(compact(generation.chunk("" if reason == "abort" else f" {number}", reason)))
                number += 1
            if generation.wanted.stream_usage:
                exchange.event(compact(generation.usage_chunk()))
        except HttpError as error:
            exchange.event(json.dumps(error.body))
        exchange.event("[DONE]")
        exchange.end_stream()

    # The end

    def _engine_died(self) -> None:
        """End the server in a while: nothing restarts a dead engine."""
        log("ERROR", "EngineCore died unexpectedly")
        seconds = self.settings.script.death_seconds
        self._end_in(seconds * ANSWERING_PART, seconds)

    def _end_soon(self) -> None:
        """End the server at once: unlike a stream's, the error of a whole answer reaches the code that does it."""
        self._end_in(0.1, 0.2)

    def _end_in(self, listening_seconds: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(listening_seconds, self._stop_listening)
        loop.call_later(seconds, self.finished.set)

    def _stop(self) -> None:
        """Begin the shutdown, once."""
        if not self.shutdown:
            self.shutdown = asyncio.get_running_loop().create_task(self._shut_down())

    async def _shut_down(self) -> None:
        """Drain if asked, dismiss the engine, and wait for the clients, however long they stay."""
        timeout = self.settings.shutdown_timeout
        mode = "drain" if timeout else "abort"
        log("INFO", f"[shutdown] API server: stopping engine client mode={mode} timeout={timeout}s")
        await self.engine.wait_drained(timeout)
        await self.engine.dismiss()
        self._stop_listening()
        log("INFO", "[shutdown] API server: waiting for connections to close")
        await self.quiet.wait()
        self.finished.set()

    def _stop_listening(self) -> None:
        """Refuse new connections and close the idle ones."""
        self.stopping = True
        self.listener.close()
        for connection in list(self.connections):
            if connection.task is None:
                connection.transport.close()
        self.connection_rests()

    def connection_rests(self) -> None:
        """Note that a connection has no request; the shutdown waits for the last."""
        if self.stopping and all(connection.task is None for connection in self.connections):
            self.quiet.set()


# ---------------------------------------------------------------------------------------------------------------------
# Start


def compact(value: Any) -> str:
    """Return JSON as the real server words it."""
    return json.dumps(value, separators=(",", ":"))


def log(level: str, message: str) -> None:
    """Write a line in the manner of vLLM's log."""
    print(f"(APIServer pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} {message}", flush=True)


def bind(host: str, port: int) -> socket.socket:
    """Bind the port without listening: connections are refused until the model is loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UsageError(f"port {port} of {host or '0.0.0.0'}: {error.strerror}") from None
    return listener


def wait_loaded(channel: socket.socket) -> None:
    """Wait for the engine's first message, the whole of which says that it is ready."""
    if not channel.recv(len(b'{"ready": true}\n'), socket.MSG_WAITALL):
        raise UsageError("Engine core initialization failed. See root cause above.")


def interrupt_loading(*_: Any) -> None:
    raise KeyboardInterrupt("terminated")


def serve(settings: Settings) -> None:
    """Run the server until it ends; whatever ends it, only SIGKILL leaves the engine behind."""
    signal.signal(signal.SIGTERM, interrupt_loading)
    listener = bind(settings.host, settings.port)
    log("INFO", f"vLLM API server version {__version__} (simulator), model {settings.model}, port {settings.port}")
    # A signal must find the engine either not there or under the care of `finally`.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    pid, channel = start_engine(settings, listener)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        wait_loaded(channel)

        async def run() -> None:
            await ApiServer(settings).run(listener, pid, channel)

        asyncio.run(run())
    finally:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def main(arguments: list[str] | None = None) -> int:
    """Serve, as `python -m vllm.entrypoints.openai.api_server` does."""
    try:
        serve(read_settings(sys.argv[1:] if arguments is None else arguments, os.environ))
    except UsageError as error:
        time.sleep(IMPORT_SECONDS)
        print(f"vllm: error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def cli() -> int:
    """Be the command `vllm`, of which `serve` is simulated; `download-kernels` has nothing to do."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "serve":
        return main(sys.argv[2:])
    if command in ("-v", "--version"):
        print(__version__)
        return 0
    if command == "download-kernels":
        return 0
    message = f"{command or 'no command'}: the simulator knows serve, download-kernels and --version"
    print(f"vllm: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
