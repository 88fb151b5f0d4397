# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the models of the instances come from, and what they are called on the node."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .manifest import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

HUB = "hub"
DIRECTORY = "directory"


@dataclass(frozen=True)
class Source:
    """A model as an inventory asks for it. A directory's revision may be open until its files are known."""

    kind: str
    model: str
    name: str
    revision: str


def is_hub_id(model: str) -> bool:
    """Whether model means one of a hub, or else a directory on the controller. The word alone tells, on any host."""
    return HUB_ID.fullmatch(model) is not None


def directory_of(model: str, base: str) -> str | None:
    """Path on the controller of a model that is a directory, where a relative one counts from base."""
    return None if is_hub_id(model) else os.path.normpath(os.path.join(base, os.path.expanduser(model)))


def sources(instances: Iterable[Mapping[str, Any]], base: str) -> dict[Source, list[str]]:
    """The models of the instances, each once, with the names of the instances that share it.

    Paths are relative to base. Whatever is wrong is raised as a ModelError.
    """
    found: dict[Source, list[str]] = {}
    for number, instance in enumerate(instances):
        name = instance.get("name")
        if not isinstance(name, str) or not name:
            raise ModelError(f"models[{number}] has no name: give each instance one")
        try:
            found.setdefault(_source(instance, base), []).append(name)
        except ModelError as error:
            raise ModelError(f"instance {name!r}: {error}") from None
    return found


def _source(instance: Mapping[str, Any], base: str) -> Source:
    model, revision = instance.get("model"), instance.get("revision", "")
    if not isinstance(model, str) or not model:
        raise ModelError("it has no model: name a hub id such as org/name, or a directory on the controller")
    if not isinstance(revision, str):
        raise ModelError(f"revision {revision!r} is not a string: put it in quotes")
    directory = directory_of(model, base)
    if directory is None:
        return _hub(model, revision)
    if not os.path.isdir(directory):
        raise ModelError(
            f"model {model!r} is neither a hub id such as org/name nor a directory on the controller"
            f" (looked for {directory}): correct it"
        )
    return _directory(directory, revision)


def _directory(path: str, revision: str) -> Source:
    name = os.path.basename(path)
    if not NAME.fullmatch(name):
        raise ModelError(
            f"model directory {path} has a name of other than letters, digits, '.', '_' and '-': rename it"
        )
    if revision and not NAME.fullmatch(revision):
        raise ModelError(f"revision {revision!r} has other than letters, digits, '.', '_' and '-': choose another")
    return Source(DIRECTORY, path, name, revision)


def _hub(model: str, revision: str) -> Source:
    if not COMMIT.fullmatch(revision):
        remedy = "pin the 40 hexadecimal digits of one, from the history of the model's files"
        if revision:
            raise ModelError(f"revision {revision!r} of model {model} is no commit: {remedy}")
        raise ModelError(f"model {model} has no revision: {remedy}, or write ./{model} if it is a directory")
    return Source(HUB, model, model.replace("/", "--"), revision)
