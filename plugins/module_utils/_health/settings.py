# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the health check: /etc/vllm/health.json, checked word by word."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .._serving.verdict import Thresholds

PATH = "/etc/vllm/health.json"
MOST_SECONDS = 366 * 24 * 3600
PREFIX = "health_check_"
"""Of the role's variables that are settings."""
# An IPv6 socket of asyncio takes no IPv4.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
EVENTS = ("restart", "quarantine", "recovered", "released")


@dataclass(frozen=True)
class Hook:
    """What is run or called on an event: a command or a URL. Either may hold a secret, so neither is shown."""

    events: tuple[str, ...]
    command: tuple[str, ...] = field(default=(), repr=False)
    url: str = field(default="", repr=False)
    timeout_seconds: float = 10.0


@dataclass(frozen=True)
class Settings:
    look_seconds: float = 2.0
    """Time between two looks at an instance."""
    hang_grace_seconds: float = 20.0
    """An engine with work may stand still for this long."""
    idle_probe_seconds: float = 10.0
    """An idle engine is asked for a token this often."""
    unresponsive_seconds: float = 120.0
    """A server that is at work may owe every answer for this long."""
    load_stall_seconds: float = 120.0
    """A load that makes no progress for this long has stalled."""
    stable_seconds: float = 300.0
    """A server that has served for this long without a break is mended."""
    restart_budget: int = 5
    """Restarts, the runtime's own included, before an instance is quarantined."""
    restart_window_seconds: float = 3600.0
    """A restart counts for this long, and on until a server is mended."""
    backoff_seconds: float = 10.0
    """Time between the first restart and the second; it doubles with each further one."""
    backoff_max_seconds: float = 300.0
    action_timeout_seconds: float = 150.0
    """An action may take this long to show an effect; longer than a graceful stop."""
    gpu_look_seconds: float = 10.0
    """Time between two looks at the GPUs."""
    agent_enabled: bool = True
    agent_address: str = "0.0.0.0"
    agent_port: int = 9410
    hooks: tuple[Hook, ...] = ()

    @property
    def asked_address(self) -> str:
        """Where the node itself asks the agent."""
        return ANY_ADDRESS.get(self.agent_address, self.agent_address)

    def thresholds(self, start_grace_seconds: float) -> Thresholds:
        """What a judge of an instance goes by."""
        return Thresholds(
            hang_grace_seconds=self.hang_grace_seconds,
            idle_probe_seconds=self.idle_probe_seconds,
            unresponsive_seconds=self.unresponsive_seconds,
            load_stall_seconds=self.load_stall_seconds,
            start_grace_seconds=start_grace_seconds,
        )


def load(path: str = PATH) -> Settings:
    """The settings in a file, the defaults where there is none; ValueError says what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except FileNotFoundError:
        return Settings()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): deploy it again") from error
    try:
        return parse(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(document: Any) -> Settings:
    """The settings that a decoded document makes."""
    words = _read(document, "", _WORDS)
    if "hooks" in words:
        words["hooks"] = tuple(_hook(hook, f"hooks[{number}]") for number, hook in enumerate(words["hooks"]))
    settings = Settings(**words)
    if settings.backoff_max_seconds < settings.backoff_seconds:
        raise ValueError(
            f"backoff_max_seconds is {settings.backoff_max_seconds:g}, less than backoff_seconds:"
            f" write {settings.backoff_seconds:g} or more"
        )
    return settings


def problem(document: Any) -> str:
    """What is wrong with a decoded document, in the words of the role's variables; empty where nothing is."""
    try:
        parse(document)
    except ValueError as error:
        return f"{PREFIX}{error}"
    return ""


def _hook(document: Any, place: str) -> Hook:
    words = _read(document, place, _HOOK_WORDS)
    if not words.get("events"):
        raise ValueError(f"{place}.events is missing: list the events that it is for")
    if ("command" in words) == ("url" in words):
        raise ValueError(f"{place} must have either a command or a url: write one of them")
    return Hook(**{**words, **{word: tuple(value) for word, value in words.items() if isinstance(value, list)}})


def _read(document: Any, place: str, known: dict[str, _Word]) -> dict[str, Any]:
    """The words of a mapping, each of them known and right."""
    if not isinstance(document, dict):
        raise ValueError(f"{place or 'the document'} is no mapping: write one with some of {', '.join(known)}")
    for name, value in document.items():
        where = f"{place}.{name}" if place else name
        word = known.get(name)
        if word is None:
            raise ValueError(f"{where} is not known: write one of {', '.join(known)}")
        if not word.right(value):
            shown = "" if word.secret else f" {json.dumps(value)[:60]},"
            raise ValueError(f"{where} is{shown} not {word.kind}: write {word.kind}")
    return dict(document)


@dataclass(frozen=True)
class _Word:
    kind: str
    right: Callable[[Any], bool]
    secret: bool = False
    """Its value must not be told."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and 0 < value <= MOST_SECONDS


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _is_url(value: Any) -> bool:
    try:
        return isinstance(value, str) and urlsplit(value).scheme in {"http", "https"} and bool(urlsplit(value).hostname)
    except ValueError:
        return False


def _is_command(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(word, str) and "\0" not in word for word in value)
    return texts and bool(value) and bool(value[0])


def _are_events(value: Any) -> bool:
    return isinstance(value, list) and all(event in EVENTS for event in value)


_SECONDS = _Word("a number of seconds above 0 and of a year at most", _is_seconds)
_WORDS = {
    "look_seconds": _SECONDS,
    "gpu_look_seconds": _SECONDS,
    "hang_grace_seconds": _SECONDS,
    "idle_probe_seconds": _SECONDS,
    "unresponsive_seconds": _SECONDS,
    "load_stall_seconds": _SECONDS,
    "stable_seconds": _SECONDS,
    "restart_budget": _Word("a whole number from 1 to 1000", lambda value: _is_whole(value) and 1 <= value <= 1000),
    "restart_window_seconds": _SECONDS,
    "backoff_seconds": _SECONDS,
    "backoff_max_seconds": _SECONDS,
    "action_timeout_seconds": _SECONDS,
    "agent_enabled": _Word("true or false", lambda value: isinstance(value, bool)),
    "agent_address": _Word("an IP address of this node, or 0.0.0.0 for all of them", _is_address),
    "agent_port": _Word("a port from 1 to 65535", lambda value: _is_whole(value) and 1 <= value <= 65535),
    "hooks": _Word("a list of hooks", lambda value: isinstance(value, list)),
}
_HOOK_WORDS = {
    "events": _Word(f"a list of events out of {', '.join(EVENTS)}", _are_events),
    "command": _Word("a list of a program and its arguments", _is_command, secret=True),
    "url": _Word("an address that begins with http:// or https://", _is_url, secret=True),
    "timeout_seconds": _SECONDS,
}
