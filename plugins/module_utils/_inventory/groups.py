# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words that contradict each other: in two groups of one host, or in two hosts behind one load balancer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .instances import Instance
from .wording import listed, sentence, shown

# Each decides what the whole host runs.
WORDS = ("vllm_instances", "vllm_root", "vllm_runtime", "vllm_user", "vllm_variant", "vllm_version")


@dataclass(frozen=True)
class Group:
    """A group that the host is in, and what it says itself."""

    name: str
    rank: tuple[int, int]
    """Depth and priority: of two groups, Ansible takes the word of the higher rank."""
    words: Mapping[str, Any] = field(default_factory=dict)


def check_groups(groups: Sequence[Group], settled: Collection[str] = ()) -> Iterator[str]:
    """Groups of equal rank that say different things, of which Ansible takes the last by its name.

    `settled` holds the words that something above all groups decides, such as the host's own variables.
    """
    for word in WORDS:
        saying = [group for group in groups if word in group.words]
        highest = max((group.rank for group in saying), default=(0, 0))
        rivals = sorted((group for group in saying if group.rank == highest), key=lambda group: group.name)
        if word not in settled and any(group.words[word] != rivals[0].words[word] for group in rivals):
            remedy = "set it in one of them, or for the host, or raise the ansible_group_priority of one"
            yield sentence(_contradiction(word, rivals), remedy)


def _contradiction(word: str, rivals: Sequence[Group]) -> str:
    # A list of instances is long, and may hold secrets.
    if word == "vllm_instances":
        names = listed(group.name for group in rivals)
        return f"{word} is set differently in the groups {names}, and Ansible takes one of them without a word"
    said = listed(f"{shown(group.words[word])} in group {group.name}" for group in rivals)
    return f"{word} is {said}, and Ansible takes one of them without a word"


def check_peers(served: Mapping[str, Sequence[Instance]]) -> Iterator[tuple[str, str]]:
    """Host and problem for each instance whose name stands for another model elsewhere; `served` is by host."""
    hosts: defaultdict[str, defaultdict[tuple[str, str | None], list[tuple[str, Instance]]]]
    hosts = defaultdict(lambda: defaultdict(list))
    for host, instances in served.items():
        # A name that comes twice on one host is a problem of its own.
        for name, instance in {each.name: each for each in reversed(instances)}.items():
            if name and instance.model:
                hosts[name][instance.model, instance.revision].append((host, instance))
    for name, models in hosts.items():
        # What most hosts serve is taken for what was meant.
        usual, *others = sorted(models, key=lambda model: -len(models[model]))
        elsewhere = _some([host for host, _instance in models[usual]])
        for model in others:
            for host, instance in models[model]:
                trouble = (
                    f"{instance.where} serves {_model(model)} by the name {name}, which stands for {_model(usual)}"
                    f" on {elsewhere} behind the same load balancer"
                )
                yield host, sentence(trouble, "serve one model, or give the two different names")


def _model(model: tuple[str, str | None]) -> str:
    name, revision = model
    return f"{shown(name)} at {revision[:12]}" if revision else shown(name)


def _some(hosts: Sequence[str]) -> str:
    return listed(hosts) if len(hosts) <= 3 else f"{hosts[0]} with {len(hosts) - 1} others"
