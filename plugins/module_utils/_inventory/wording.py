# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one form that every problem is told in."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

LONGEST = 60
PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def shown(value: object) -> str:
    """A value as the inventory writes it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    # Half a surrogate pair is a string to Python, and no character to any output.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def key(word: object) -> str:
    """A mapping's key as it stands in the name of a variable."""
    return word if isinstance(word, str) and PLAIN_KEY.fullmatch(word) else shown(word)


def problem(variable: str, value: object, trouble: str, remedy: str) -> str:
    return sentence(f"{variable} is {shown(value)}, {trouble}", remedy)


def missing(variable: str, remedy: str) -> str:
    return sentence(f"{variable} is missing", remedy)


def sentence(trouble: str, remedy: str) -> str:
    return f"{trouble}: {remedy}{'' if remedy.endswith('?') else '.'}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant."""
    return next(iter(difflib.get_close_matches(word[:LONGEST], list(known), n=1, cutoff=0.6)), None)


def listed(words: Iterable[object], last: str = "and") -> str:
    """`a, b and c`."""
    texts = [str(word) for word in words]
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def is_whole(value: object) -> bool:
    """Whether a value is an integer; to Python, true is one."""
    return isinstance(value, int) and not isinstance(value, bool)
