# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes secrets out of texts: what configuration files call a secret, wherever it stands, and what looks like one."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "********"
SECRET_NAME = re.compile(r"(^|[-_])(keys?|tokens?|secrets?|passw(or)?d|passphrase|credentials?|auth)($|[-_])", re.I)
"""Of an option, a variable or a member."""
COUNT_NAME = re.compile(r"(max|min|num|len|length|batched|block|special|stop|pad|eos|bos)[-_]|[-_](ids?|parser)$", re.I)
"""Of the tokens that a model makes, and of the keys of a cache."""
PLAIN_VARIABLE = re.compile(
    r"(CUDA|NCCL|NVIDIA|OMP|MKL|TORCH\w*|PYTORCH\w*|TRITON|VLLM|XDG|FLASHINFER|TRANSFORMERS|SIM)_\w+"
    r"|HF_(HOME|HUB_OFFLINE|ENDPOINT)|SPT_NOENV|DO_NOT_TRACK|PATH|LANG|LC_\w+|TZ"
)
"""Environment variables whose values help, and are nobody's secret unless their name says so."""
OPTIONS = ".yaml"
WORD = re.compile(r"[^\s\"',\[\]]+")
ENVIRONMENTS = ("environment", "env")
HOOKS = ("command", "url")
SHORTEST = 4
"""A shorter secret is taken from its own place alone: everywhere else its letters mean other things."""
SHORTEST_VALUE = 8
"""The same for what need not be one."""

ASSIGNED = re.compile(
    r"""((?:api[-_]?key|access[-_]?key|secret[-_]?key|token|secret|passw(?:or)?d|passphrase|credentials?)"""
    r"""["']?\s*(?:[=:]\s*|\s(?=["'])))(?!["']?\*{8})(\[[^\]\n]*\]?|"[^"\n]*"?|'[^'\n]*'?|[^\s,;}\])]+)""",
    re.IGNORECASE,
)
OPTION = re.compile(r"(--(?:api-key|hf-token|[\w-]{0,40}(?:secret|password))[= ]+)(\S+)", re.IGNORECASE)
BEARER = re.compile(r"((?:bearer|basic)\s+)[\w.~+/=-]{4,}", re.IGNORECASE)
IN_URL = re.compile(r"://[^/\s:@]{0,200}:[^/\s@]{1,500}@")
LOOKS = re.compile(r"\b(?:hf_|hf_oauth_|sk-|ghp_|github_pat_|glpat-|xox[abp]-|AKIA)[\w-]{12,}")


def is_secret(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not COUNT_NAME.search(name)


def found_in(name: str, text: str) -> set[str]:
    """Secrets of a file of ours: JSON, or the options of a server."""
    if name.endswith(OPTIONS):
        return {word for option, value in _options(text) for word in _of_option(option, value)}
    with contextlib.suppress(ValueError, RecursionError):
        return set(_secrets(json.loads(text)))
    return set()


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Of each line its option and what is said of it; a file may be damaged."""
    for line in text.splitlines():
        option, _separator, value = line.partition(": ")
        yield option, value


def _of_option(option: str, value: str) -> Iterator[str]:
    try:
        yield from _secrets({option: json.loads(value)})
    except (ValueError, RecursionError):
        if is_secret(option):
            yield from (word for word in WORD.findall(value) if len(word) >= SHORTEST)


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _secrets(item)
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if is_secret(name):
            yield from _texts(item, SHORTEST)
        elif name in ENVIRONMENTS and isinstance(item, dict):
            yield from _of_environment(item)
        elif name in HOOKS:
            yield from _of_hook(item)
        else:
            yield from _secrets(item)


def _texts(value: Any, shortest: int) -> Iterator[str]:
    if isinstance(value, (str, int)) and not isinstance(value, bool) and len(str(value)) >= shortest:
        yield str(value)
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from _texts(item, shortest)


def _of_environment(variables: dict[str, Any]) -> Iterator[str]:
    for name, value in variables.items():
        if is_secret(name):
            yield from _texts(value, SHORTEST)
        elif not PLAIN_VARIABLE.fullmatch(name) and not str(value).startswith("/"):
            yield from _texts(value, SHORTEST_VALUE)


def _of_hook(value: Any) -> Iterator[str]:
    """Of a command its arguments, of a URL all that it holds beside its host."""
    if isinstance(value, list):
        yield from _texts(value[1:], SHORTEST_VALUE)
    elif isinstance(value, str):
        yield value
        with contextlib.suppress(ValueError):
            parts = urlsplit(value)
            words = [*parts.path.split("/"), parts.password or "", *(item for _name, item in parse_qsl(parts.query))]
            yield from _texts([word for part in words for word in (part, unquote(part))], SHORTEST_VALUE)


def masked(value: Any) -> Any:
    """A decoded file without its secrets, in which the names of what is set are still told."""
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _masked_member(name, item) for name, item in value.items()}


def _masked_member(name: str, item: Any) -> Any:
    if is_secret(name) or name in HOOKS:
        return MASK
    if name in ENVIRONMENTS and isinstance(item, dict):
        return {
            variable: value if PLAIN_VARIABLE.fullmatch(variable) and not is_secret(variable) else MASK
            for variable, value in item.items()
        }
    return masked(item)


class Redactor:
    """Knows the secrets of a node."""

    def __init__(self, secrets: Iterable[str]) -> None:
        shown = {form for secret in secrets for form in _forms(secret)}
        # The longest first: one may be a part of another.
        words = sorted(shown, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def clean(self, name: str, text: str) -> str:
        """The text of a file of that name."""
        text = _structured(name, text)
        if self._known:
            text = self._known.sub(MASK, text)
        text = IN_URL.sub(f"://{MASK}@", text)
        text = LOOKS.sub(MASK, text)
        text = BEARER.sub(rf"\1{MASK}", text)
        text = OPTION.sub(rf"\1{MASK}", text)
        return ASSIGNED.sub(rf"\1{MASK}", text)


def _structured(name: str, text: str) -> str:
    """What the names of its members tell to be secret is masked; of a damaged file nothing else tells it."""
    if name.endswith(OPTIONS):
        lines = [f"{option}: {MASK if is_secret(option) else value}" for option, value in _options(text)]
        return "\n".join([*lines, ""])
    if not name.endswith(".json"):
        return text
    try:
        return json.dumps(masked(json.loads(text)), indent=2) + "\n"
    except (ValueError, RecursionError) as error:
        return f"[{len(text)} characters that are no JSON, and are left out: {error}]\n"


def _forms(secret: str) -> Collection[str]:
    """As it stands in a text, in JSON, and in what Python shows."""
    return {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
