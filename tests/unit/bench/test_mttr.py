# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `script/bench mttr` makes of answers, of a node's journal and of its own results."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# The benches belong to the repository, not to the collection.
sys.path.append(str(Path(__file__).parents[3]))
client = importlib.import_module("bench._client")
faults = importlib.import_module("bench._faults")
mttr = importlib.import_module("bench.mttr")

WHOLE = client.Kind("short", 4)
STREAM = client.Kind("stream", 4, streamed=True)


def answer(reason: str = "length", tokens: int = 4) -> str:
    return json.dumps({"choices": [{"finish_reason": reason}], "usage": {"completion_tokens": tokens}})


def stream(*reasons: str | None, end: str = "data: [DONE]\n\n") -> str:
    chunks = ({"choices": [{"text": "a", "finish_reason": reason}]} for reason in reasons)
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


@pytest.mark.parametrize(
    ("text", "kind", "wrong"),
    [
        (answer(), WHOLE, ""),
        (answer("abort"), WHOLE, "finish_reason abort"),
        (answer(tokens=3), WHOLE, "3 tokens of 4"),
        ("<html>", WHOLE, "no completion"),
        ("{}", WHOLE, "no completion"),
        ("[]", WHOLE, "no completion"),
        (stream(None, "length"), STREAM, ""),
        (": keep-alive\n\n" + stream(None, "length"), STREAM, ""),
        (stream(None, "length", end=""), STREAM, "the stream broke off"),
        (stream(None), STREAM, "finish_reason None"),
        (stream(None, "abort"), STREAM, "finish_reason abort"),
        (stream(None, end='data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n'), STREAM, "an error in the stream"),
        (stream(end='data: {"err\n\ndata: [DONE]\n\n'), STREAM, "no completion"),
        (stream(), STREAM, "finish_reason None"),
        ("", STREAM, "the stream broke off"),
    ],
)
def test_answer_of_status_200_may_be_none(text: str, kind: Any, wrong: str) -> None:
    found = client.fault_of(text, kind)
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


class Server(BaseHTTPRequestHandler):
    """Answers by the length that is asked for: 4 well, 5 with an error, 6 cut short, 7 not at all."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"]
        if asked == 7:
            return
        body = answer().encode()
        self.send_response(503 if asked == 5 else 200)
        self.send_header("Content-Length", str(len(body) + (asked == 6)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any, **_more: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("tokens", "status", "wrong"), [(4, 200, ""), (5, 503, "status 503"), (6, 200, "Incomplete"), (7, 0, "Remote")]
)
def test_request_knows_how_it_ended(endpoint: str, tokens: int, status: int, wrong: str) -> None:
    request = client.ask(endpoint, "tiny", client.Kind("short", tokens))
    assert request.status == status
    assert request.fault.startswith(wrong)
    assert request.began <= request.ended


def test_client_asks_all_the_while_and_finishes_what_it_has(endpoint: str) -> None:
    kinds = (client.Kind("short", 4, pause_seconds=0.01), client.Kind("short", 5, pause_seconds=0.01))
    with client.Client(endpoint, "tiny", kinds) as asking:
        threading.Event().wait(0.3)
    found = mttr.tally(asking.requests)
    assert found["requests"] > found["failed"] > 1
    assert (found["streams"], found["failed_streams"]) == (0, 0)


def test_flood_is_hung_up_without_being_counted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        with client.Flood(f"http://127.0.0.1:{silent.getsockname()[1]}", "tiny", WHOLE, 50) as flood:
            threading.Event().wait(0.3)
        assert flood.requests == []


def test_action_is_read_from_the_agents_log() -> None:
    def entry(at: float, unit: str, **message: str) -> dict[str, Any]:
        return {"at": at, "_SYSTEMD_UNIT": unit, "MESSAGE": json.dumps({"instance": "tiny", **message})}

    agent = mttr.AGENT_UNIT
    journal = [
        entry(1, agent, event="verdict", state="hung"),
        entry(2, "other.service", event="action", action="kill"),
        entry(3, agent, event="action", action="kill", reason="hung"),
        entry(4, agent, event="action", action="kill", error="no"),
        {"at": 5, "_SYSTEMD_UNIT": agent, "MESSAGE": "{ no JSON"},
        {"at": 6, "_SYSTEMD_UNIT": agent, "MESSAGE": "Traceback"},
    ]
    assert mttr.actions(journal) == [(3, "kill: hung"), (4, "kill: no")]


def line(fault: str, batch: str, **figures: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("detect", "recover", "load", "overhead", "held", "queue"))
    counts = {"requests": 10, "failed": 0, "streams": 5, "failed_streams": 1, "restarts": 1}
    return {"fault": fault, "batch": batch, **empty, **counts, **figures}


def test_table_tells_the_worst_run_of_the_newest_batch() -> None:
    lines = [
        line("crash-api", "1", detect=99.0),
        line("crash-api", "2", detect=0.5, recover=31.0, load=30.0, overhead=1.0),
        line("crash-api", "2", detect=0.1, recover=33.0, load=32.5, overhead=0.5, failed=1),
        line("saturated", "1", restarts=0),
        line("port-stolen", "1", overhead=4.0, held=20.0),
    ]
    rows = mttr.table(lines).splitlines()
    crash, stolen, saturated = (faults.FAULTS[name].what for name in ("crash-api", "port-stolen", "saturated"))
    assert rows[2:] == [
        f"| {crash} | `crash-api` | 0.5 s | 33.0 s | 32.5 s | 1.0 s | 1 of 20 | 2 of 10 | 1 | 2 |",
        f"| {stolen} | `port-stolen` | - | - | - | 4.0 s, and 20 s of the cause | 0 of 10 | 1 of 5 | 1 | 1 |",
        f"| {saturated} | `saturated` | - | - | - | - | 0 of 10 | 1 of 5 | 0 | 1 |",
    ]
    assert {row.count("|") for row in rows} == {11}


def test_table_goes_between_the_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, results = tmp_path / "FAULTS.md", tmp_path / "mttr.jsonl"
    monkeypatch.setattr(mttr, "RESULTS", results)
    results.write_text(json.dumps(line("crash-api", "1")) + "\n")
    document.write_text(f"before\n{mttr.BEGIN}\nold\n{mttr.END}\nafter\n")
    mttr.write_table(document)
    text = document.read_text()
    assert text.startswith(f"before\n{mttr.BEGIN}\n| fault ")
    assert text.endswith(f" |\n{mttr.END}\nafter\n")
    document.write_text("no place")
    with pytest.raises(SystemExit, match="has no place for the table"):
        mttr.write_table(document)
