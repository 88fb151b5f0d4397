# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`args` of an instance against the options of its `vllm serve`.

Each release has a table, written by script/extract-options from vLLM's own argument parser. An option is of a kind:
- switch: true or false, as `--no-OPTION` exists too
- flag: true alone; vLLM drops a false in silence
- list: one value or several
- json: a mapping, or any JSON in a string
- integer, number, text; or the list of its choices
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from .wording import is_whole, key, listed, nearest, problem, sentence, shown

TABLES = Path(__file__).parent / "vllm_options"
Kind = Union[str, Sequence[object]]
# What is wrong, and the remedy.
Fault = Optional[tuple[str, str]]

# What the role vllm_service writes itself, and where the inventory says it.
MANAGED = {
    "api-key": "list the keys in vllm_api_keys, which keeps them out of the logs",
    "config": "drop it, the role vllm_service writes that file",
    "host": "drop it, the role vllm_service decides where the server listens",
    "model": "say it as the instance's model",
    "port": "say it as the instance's port",
    "revision": "say it as the instance's revision",
}
# With a suffix, such as 32k, or with one of the words that leave it to vLLM.
INTEGER = re.compile(r"[-+]?\d+|\d+(\.\d+)?[kKmMgGtT]|auto|None")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|None")


@dataclass(frozen=True)
class Options:
    """The options of one release."""

    version: str
    kinds: Mapping[str, Kind]
    short_names: Mapping[str, str]


def load(version: object, tables: Path = TABLES) -> Options | None:
    """The table of a release, None where there is none."""
    release = version.partition("+")[0] if isinstance(version, str) else ""
    if not re.fullmatch(r"[0-9][0-9a-z.]{0,30}", release):
        return None
    try:
        table = json.loads((tables / f"{release}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Options(release, table["options"], table["short_names"])


def canonical(option: object) -> str:
    """An option as the tables spell it: vLLM takes underscores for dashes, though not everywhere."""
    return key(option).replace("_", "-")


def check_args(where: str, args: object, options: Options | None) -> Iterator[str]:
    """Problems of one instance's `args`, which `where` names."""
    if not isinstance(args, Mapping):
        yield problem(where, args, "not a mapping", "write 'option: value', the option without dashes in front")
        return
    for option, value in args.items():
        variable = f"{where}.{key(option)}"
        if canonical(option) in MANAGED:
            # The value is not shown: it may be a key.
            yield sentence(f"{variable} is set, but is no option for args", MANAGED[canonical(option)])
        elif options is not None:
            yield from _check_option(variable, option, value, options)


def _check_option(variable: str, option: object, value: object, options: Options) -> Iterator[str]:
    kind = options.kinds.get(option) if isinstance(option, str) else None
    if kind is None:
        remedy = _remedy_for_unknown(key(option), options)
        yield problem(variable, value, f"but vllm serve {options.version} has no such option", remedy)
        return
    fault = _fault(kind, value)
    if fault is not None:
        yield problem(variable, value, *fault)


def _remedy_for_unknown(option: str, options: Options) -> str:
    bare = option.lstrip("-")
    if bare in options.short_names:
        return f"write it out as {options.short_names[bare]}"
    if canonical(bare) in options.kinds:
        return f"write {canonical(bare)}"
    positive = canonical(bare)[len("no-") :]
    if canonical(bare) == f"no-{positive}" and options.kinds.get(positive) == "switch":
        return f"write '{positive}: false'"
    head, dot, _rest = bare.partition(".")
    if dot and options.kinds.get(head) == "json":
        return f"write {head} as a mapping"
    meant = nearest(canonical(bare), options.kinds)
    return f"did you mean {meant}?" if meant else "vllm serve --help=all lists those it has"


def _fault(kind: Kind, value: object) -> Fault:
    if value is None:
        return "which is no value", "give it one, or drop the line"
    if kind == "switch":
        return None if isinstance(value, bool) else ("but the option is a switch", "write true or false")
    if kind == "flag":
        return _flag_fault(value)
    if isinstance(value, bool):
        trouble = "but the option takes a value" if value else "which vLLM would drop in silence"
        return trouble, "give the option its value, or drop the line"
    if isinstance(value, Mapping):
        return None if kind in ("json", "text") else ("but the option takes no mapping", "write a plain value")
    if isinstance(value, (list, tuple)):
        return _list_fault(kind, value)
    return _scalar_fault(kind, value)


def _flag_fault(value: object) -> Fault:
    if value is True:
        return None
    if value is False:
        return "which vLLM would drop in silence, as the option has no --no- form", "drop the line"
    return "but the option takes no value", "write true, or drop the line"


def _list_fault(kind: Kind, value: Sequence[object]) -> Fault:
    if kind == "json":
        return "but vLLM takes a list here for several values", f"write it as a string, '{shown(value)}'"
    if kind != "list":
        return "but the option takes one value", "write it without the list"
    if not value:
        return "which vLLM would drop in silence", "give it an item, or drop the line"
    if any(item is None or isinstance(item, (bool, list, tuple, Mapping)) for item in value):
        return "but vLLM reads each item as plain text", "write the items as strings, with JSON in them if need be"
    return None


def _scalar_fault(kind: Kind, value: object) -> Fault:
    text = value if isinstance(value, str) else shown(value)
    if kind == "integer" and not (is_whole(value) or (isinstance(value, str) and INTEGER.fullmatch(text))):
        return "but the option takes an integer", "write it as one"
    if kind == "number" and not (isinstance(value, (int, float)) or NUMBER.fullmatch(text)):
        return "but the option takes a number", "write it as one"
    if not isinstance(kind, str) and _folded(text) not in {*map(_folded, kind), "none"}:
        return "which is none of the option's choices", f"use {listed(kind, 'or')}"
    return None


def _folded(choice: object) -> str:
    """vLLM itself takes some choices in any spelling; here all are."""
    return str(choice).lower().replace("-", "_")
