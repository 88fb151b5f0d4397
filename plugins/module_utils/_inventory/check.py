# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that can be said of a host's inventory without asking the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .._health import settings as health_settings
from . import words as word_checks
from .instances import check_instances, read
from .models import Model
from .options import Options
from .wording import problem, shown


@dataclass(frozen=True)
class Words:
    """The shared words as the inventory gives them, of whatever type."""

    instances: object
    version: object = None
    variant: object = "cuda"
    runtime: object = "systemd"
    user: object = "vllm"
    root: object = "/opt/vllm"
    health_check: Mapping[str, object] = field(default_factory=dict)
    """Variables of the role health_check, by their names."""
    docker: Mapping[str, object] = field(default_factory=dict)
    """`vllm_docker_<word>`, by their last words."""


def check_words(words: Words, models: Mapping[str, Model], options: Options | None) -> list[str]:
    return [
        *word_checks.check_version(words.version),
        *word_checks.check_variant(words.variant),
        *word_checks.check_runtime(words.runtime),
        *(word_checks.check_docker(words.docker) if words.runtime == "docker" else ()),
        *word_checks.check_user(words.user),
        *word_checks.check_root(words.root),
        *word_checks.check_health(words.health_check),
        *check_agent_port(words),
        *check_instances(words.instances, models, options, with_gpus=words.variant == "cuda"),
    ]


def check_agent_port(words: Words) -> Iterator[str]:
    """The node agent listens on a port of its own."""
    try:
        health = health_settings.parse(word_checks.health_document(words.health_check))
    except ValueError:
        return  # told already
    if not health.agent_enabled:
        return
    for instance in read(words.instances):
        if instance.port == health.agent_port:
            yield problem(
                f"{instance.where}.port",
                instance.port,
                "the port of the node agent",
                "give the instance another port, or the agent one by health_check_agent_port",
            )


def warnings(words: Words, options: Options | None) -> list[str]:
    told = list(word_checks.warn_runtime(words.runtime))
    if options is None and not any(word_checks.check_version(words.version)):
        told.append(f"vllm_version is {shown(words.version)}, whose options are not known here: args are not checked.")
    return told
