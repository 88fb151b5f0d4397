# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings: defaults, and one sentence for whatever is wrong with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._health import settings
from ansible_collections.inferops.vllm.plugins.module_utils._health.settings import Hook, Settings

SECONDS = "a number of seconds above 0 and of a year at most"
HOOK = {"events": ["restart"], "url": "https://alerts.example/x?token=hush"}


def load(tmp_path: Path, document: Any) -> Settings:
    path = tmp_path / "health.json"
    path.write_text(json.dumps(document))
    return settings.load(str(path))


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert settings.load(str(tmp_path / "none.json")) == Settings()
    assert load(tmp_path, {}) == Settings()


def test_every_word_is_read(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        name: value + 1 if type(value) in (int, float) else value for name, value in vars(Settings()).items()
    }
    words.update(agent_enabled=False, agent_address="::1", hooks=[])
    loaded = load(tmp_path, words)
    assert vars(loaded) == {**words, "hooks": ()}
    assert all(vars(loaded)[name] != value for name, value in vars(Settings()).items() if name != "hooks")


def test_hooks_are_read_and_keep_their_secrets(tmp_path: Path) -> None:
    command = {"events": ["quarantine", "released"], "command": ["/usr/bin/notify", "hush"], "timeout_seconds": 3}
    hooks = load(tmp_path, {"hooks": [command, HOOK]}).hooks
    assert hooks == (
        Hook(("quarantine", "released"), command=("/usr/bin/notify", "hush"), timeout_seconds=3),
        Hook(("restart",), url="https://alerts.example/x?token=hush"),
    )
    assert "hush" not in repr(hooks)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "the document is no mapping: write one with some of look_seconds, "),
        ({"look_second": 2}, "look_second is not known: write one of look_seconds, "),
        ({"look_seconds": 0}, f"look_seconds is 0, not {SECONDS}: write {SECONDS}"),
        ({"look_seconds": -1}, f"look_seconds is -1, not {SECONDS}"),
        ({"stable_seconds": "300"}, f'stable_seconds is "300", not {SECONDS}'),
        ({"stable_seconds": True}, f"stable_seconds is true, not {SECONDS}"),
        ({"stable_seconds": None}, f"stable_seconds is null, not {SECONDS}"),
        ({"stable_seconds": float("nan")}, f"stable_seconds is NaN, not {SECONDS}"),
        ({"stable_seconds": float("inf")}, f"stable_seconds is Infinity, not {SECONDS}"),
        ({"stable_seconds": 10**400}, f"stable_seconds is 1{'0' * 59}, not {SECONDS}"),
        ({"restart_budget": 0}, "restart_budget is 0, not a whole number from 1 to 1000"),
        ({"restart_budget": 5.0}, "restart_budget is 5.0, not a whole number from 1 to 1000"),
        ({"agent_enabled": 1}, "agent_enabled is 1, not true or false"),
        ({"agent_address": "node1"}, 'agent_address is "node1", not an IP address of this node'),
        ({"agent_address": 0}, "agent_address is 0, not an IP address of this node"),
        ({"agent_port": 65536}, "agent_port is 65536, not a port from 1 to 65535"),
        (
            {"backoff_seconds": 60, "backoff_max_seconds": 30},
            "backoff_max_seconds is 30, less than backoff_seconds: write 60 or more",
        ),
        ({"hooks": {}}, "hooks is {}, not a list of hooks"),
        ({"hooks": [HOOK, "x"]}, "hooks[1] is no mapping: write one with some of events, command, url"),
        ({"hooks": [{"url": "http://x"}]}, "hooks[0].events is missing"),
        ({"hooks": [{**HOOK, "events": []}]}, "hooks[0].events is missing"),
        ({"hooks": [{**HOOK, "events": ["crash"]}]}, 'hooks[0].events is ["crash"], not a list of events out of rest'),
        ({"hooks": [{**HOOK, "command": ["x"]}]}, "hooks[0] must have either a command or a url"),
        ({"hooks": [{"events": ["restart"]}]}, "hooks[0] must have either a command or a url"),
        ({"hooks": [{**HOOK, "timeout_seconds": 0}]}, f"hooks[0].timeout_seconds is 0, not {SECONDS}"),
        ({"hooks": [{**HOOK, "url": "ftp://hush"}]}, "hooks[0].url is not an address that begins with http:// or"),
        ({"hooks": [{**HOOK, "url": "http://[hush"}]}, "hooks[0].url is not an address"),
        ({"hooks": [{**HOOK, "url": "https:hush"}]}, "hooks[0].url is not an address"),
        ({"hooks": [{**HOOK, "command": "hush"}]}, "hooks[0].command is not a list of a program and its arguments"),
        ({"hooks": [{**HOOK, "command": []}]}, "hooks[0].command is not a list of a program and its arguments"),
        ({"hooks": [{**HOOK, "command": [""]}]}, "hooks[0].command is not a list of a program and its arguments"),
        ({"hooks": [{**HOOK, "command": ["hush\0"]}]}, "hooks[0].command is not a list of a program"),
    ],
)
def test_wrong_word_earns_a_sentence(tmp_path: Path, document: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^.*/health\.json: ") as caught:
        load(tmp_path, document)
    assert f"{tmp_path}/health.json: {sentence}" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damaged_file_earns_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "health.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"health\.json is no JSON \(.*\): deploy it again$"):
        settings.load(str(path))


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=6,
)


@examples(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*vars(Settings()), "x"]), any_json, max_size=3))
@example({"hooks": [{"events": [[]], "url": "http://x"}]})
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    sentence = "write "
    try:
        settings.parse(document)
    except ValueError as error:
        sentence = str(error)
    assert "write " in sentence or "list the events" in sentence


def test_thresholds_are_those_of_the_settings() -> None:
    limits = Settings(hang_grace_seconds=3, load_stall_seconds=4).thresholds(5)
    assert (limits.hang_grace_seconds, limits.load_stall_seconds, limits.start_grace_seconds) == (3, 4, 5)


@pytest.mark.parametrize(("listens", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7")])
def test_where_the_node_asks_its_agent(listens: str, asked: str) -> None:
    assert Settings(agent_address=listens).asked_address == asked


def test_problem_names_the_variable() -> None:
    assert settings.problem({"look_seconds": -1}).startswith("health_check_look_seconds is -1, ")
    assert settings.problem({}) == ""
