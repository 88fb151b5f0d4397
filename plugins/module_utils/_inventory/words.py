# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared words of the inventory that are no list: `vllm_version`, `vllm_variant`, `vllm_runtime` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields

from .._health import settings as health_settings
from .._health.settings import PREFIX
from .._serving.instance import RUNTIMES
from .wording import listed, missing, nearest, problem, shown

VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+]{0,40}")
# What useradd takes.
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
DIRECTORY = re.compile(r"(/[A-Za-z0-9_.@+-]+)+")
VARIANTS = ("cuda", "cpu")
SESSIONS = ("tmux", "screen")


def check_version(version: object) -> Iterator[str]:
    remedy = 'give a release in quotes, such as "0.33.0"'
    if version is None:
        yield missing("vllm_version", remedy)
    elif not isinstance(version, str) or not VERSION.fullmatch(version):
        yield problem("vllm_version", version, "not a release of vLLM", remedy)


def check_variant(variant: object) -> Iterator[str]:
    if variant not in VARIANTS:
        yield problem("vllm_variant", variant, "an unknown variant", f"use {listed(VARIANTS, 'or')}")


def check_runtime(runtime: object) -> Iterator[str]:
    if runtime in RUNTIMES:
        return
    available = f"use {listed(RUNTIMES, 'or')}"
    meant = nearest(runtime, RUNTIMES) if isinstance(runtime, str) else None
    yield problem("vllm_runtime", runtime, "an unknown runtime", f"did you mean {meant}?" if meant else available)


def warn_runtime(runtime: object) -> Iterator[str]:
    """What a runtime does not keep of what the others do."""
    if runtime in SESSIONS:
        yield (
            f"vllm_runtime is {shown(runtime)}, for development: nothing brings back a session that is killed,"
            " no memory limit holds, and it starts at boot by cron alone; use systemd or supervisor in production."
        )


def check_docker(docker: Mapping[str, object]) -> Iterator[str]:
    """The words for the runtime docker, each without its `vllm_docker_`."""
    for word in ("image", "base_image", "archive"):
        value = docker.get(word, "")
        if not isinstance(value, str) or any(map(str.isspace, value)):
            remedy = "give a path without spaces" if word == "archive" else "name one, such as vllm/vllm-openai:v0.33.0"
            yield problem(f"vllm_docker_{word}", value, "which cannot be one", remedy)
    if docker.get("image") and docker.get("base_image"):
        trouble = "beside vllm_docker_base_image: an image that brings vLLM is not built"
        yield problem("vllm_docker_image", docker["image"], trouble, "set one of them")
    if not isinstance(docker.get("install", True), bool):
        yield problem("vllm_docker_install", docker["install"], "neither true nor false", "set one of these")


def check_user(user: object) -> Iterator[str]:
    remedy = "use lower case letters, digits, '_' and '-', a letter first, 32 at most"
    if not isinstance(user, str) or not USER.fullmatch(user):
        yield problem("vllm_user", user, "which cannot name a user", remedy)
    elif user == "root":
        yield problem("vllm_user", user, "and a server must not run as root", "name a user of its own, such as vllm")


def check_root(root: object) -> Iterator[str]:
    if not isinstance(root, str) or not DIRECTORY.fullmatch(root) or ".." in root.split("/"):
        remedy = "give an absolute path without spaces, such as /opt/vllm"
        yield problem("vllm_root", root, "not the path of a directory", remedy)


def health_document(given: Mapping[str, object]) -> dict[str, object]:
    """The settings that variables of the role health_check make; the role has others, which are none."""
    names = (field.name for field in fields(health_settings.Settings))
    return {name: given[PREFIX + name] for name in names if PREFIX + name in given}


def check_health(given: Mapping[str, object]) -> Iterator[str]:
    wrong = health_settings.problem(health_document(given))
    if wrong:
        yield f"{wrong}."
