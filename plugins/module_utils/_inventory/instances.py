# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`vllm_instances`: each instance alone, then all of a host together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._gpu.start import SHARE_OPTIONS, memory_share
from .._models.sources import COMMIT, is_hub_id
from .._models.sources import NAME as STORED_NAME
from .models import Model
from .options import Options, canonical, check_args
from .wording import is_whole, key, listed, missing, nearest, problem, sentence, shown

WORD = "vllm_instances"
KEYS = ("args", "env", "frontend_port", "gpus", "model", "name", "port", "revision", "systemd")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SETTING = re.compile(r"[A-Z][A-Za-z0-9]*")
CONTRACT = ("ExecStart", "Group", "KillMode", "LoadCredential", "Restart", "Type", "User")
"""What a server's stop, restart and secrets rest on."""
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# vLLM refuses others.
PORTS = range(1024, 65536)


@dataclass(frozen=True)
class Instance:
    """What could be read of an instance; None or empty where its word is missing or wrong."""

    where: str
    name: str | None
    model: str | None
    revision: str | None
    port: int | None
    gpus: tuple[int, ...]
    share: float | None
    """Part of its GPUs' memory that the server takes."""

    @property
    def label(self) -> str:
        return self.name or self.where


def read(instances: object) -> list[Instance]:
    items = instances if isinstance(instances, (list, tuple)) else ()
    return [_read(f"{WORD}[{index}]", item) for index, item in enumerate(items) if isinstance(item, Mapping)]


def _read(where: str, words: Mapping[Any, Any]) -> Instance:
    name, model, revision, port = (words.get(word) for word in ("name", "model", "revision", "port"))
    return Instance(
        where=where,
        name=name if isinstance(name, str) and NAME.fullmatch(name) else None,
        model=model if isinstance(model, str) and model else None,
        revision=revision if isinstance(revision, str) and STORED_NAME.fullmatch(revision) else None,
        port=port if is_whole(port) and port in PORTS else None,
        gpus=_gpus(words.get("gpus")),
        share=memory_share(_args(words)),
    )


def _gpus(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, (list, tuple)) else ()
    return tuple(dict.fromkeys(item for item in items if _is_gpu(item)))


def _is_gpu(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 1024


def _args(words: Mapping[Any, Any]) -> dict[str, Any]:
    args = words.get("args")
    return {canonical(option): value for option, value in args.items()} if isinstance(args, Mapping) else {}


def check_instances(
    instances: object, models: Mapping[str, Model], options: Options | None, *, with_gpus: bool
) -> Iterator[str]:
    """Problems of `vllm_instances`; `models` says what was found of each model on the controller."""
    if instances is None:
        yield missing(WORD, "list the instances that the host serves, or write [] for none")
        return
    if not isinstance(instances, (list, tuple)):
        yield problem(WORD, instances, "not a list", "write a list of mappings, each with name, model and port")
        return
    for index, words in enumerate(instances):
        where = f"{WORD}[{index}]"
        if isinstance(words, Mapping):
            yield from _check_instance(where, words, models, options, with_gpus)
        else:
            yield problem(where, words, "not a mapping", "write one with name, model and port")
    known = read(instances)
    yield from _check_unique("name", known)
    yield from _check_unique("port", known)
    if with_gpus:
        yield from _check_shares(known)


def _check_instance(
    where: str, words: Mapping[Any, Any], models: Mapping[str, Model], options: Options | None, with_gpus: bool
) -> Iterator[str]:
    for word in words:
        if word not in KEYS:
            meant = nearest(key(word), KEYS)
            remedy = f"did you mean {meant}?" if meant else f"an instance has {listed(KEYS)}"
            yield sentence(f"{where}.{key(word)} is set, but no instance has such a key", remedy)
    yield from _check_name(f"{where}.name", words.get("name"))
    yield from _check_model(where, words, models)
    yield from _check_port(f"{where}.port", words.get("port"))
    yield from _check_frontend_port(f"{where}.frontend_port", words.get("frontend_port"))
    yield from _check_gpus(where, words, with_gpus)
    if words.get("args") is not None:
        yield from check_args(f"{where}.args", words["args"], options)
        yield from _check_share(f"{where}.args", _args(words))
    if words.get("env") is not None:
        yield from _check_env(f"{where}.env", words["env"])
    if words.get("systemd") is not None:
        yield from _check_settings(f"{where}.systemd", words["systemd"])


def _check_name(variable: str, name: object) -> Iterator[str]:
    remedy = "use letters, digits, '.', '_' and '-', a letter or a digit first, 64 at most"
    if name is None:
        yield missing(variable, remedy)
    elif not isinstance(name, str) or not NAME.fullmatch(name):
        yield problem(variable, name, "which cannot name a unit", remedy)


def _check_model(where: str, words: Mapping[Any, Any], models: Mapping[str, Model]) -> Iterator[str]:
    variable, model = f"{where}.model", words.get("model")
    remedy = "give the id of a model on the hub (org/name), or a directory on the controller"
    if model is None or model == "":
        yield missing(variable, remedy)
        return
    if not isinstance(model, str):
        yield problem(variable, model, "not a string", remedy)
        return
    found = models.get(model, Model(None))
    if is_hub_id(model):
        yield from _check_hub_revision(where, model, words.get("revision"))
    elif found.directory is not None:
        yield from _check_directory(variable, model, found.directory, found)
        yield from _check_directory_revision(f"{where}.revision", words.get("revision"))
    else:
        yield problem(variable, model, "neither a directory on the controller nor an id on the hub", remedy)


def _check_directory(variable: str, model: str, directory: str, found: Model) -> Iterator[str]:
    if not found.exists:
        trouble = f"but the controller has no directory {directory}"
        yield problem(variable, model, trouble, "put the model there, or give the id of one on the hub (org/name)")
    elif not found.has_config:
        trouble = f"but {directory} has no config.json"
        yield problem(variable, model, trouble, "give the directory that holds the model's files themselves")
    elif not STORED_NAME.fullmatch(found.stored_as(model)):
        trouble = "whose last part would be the name of a directory on the host"
        yield problem(variable, model, trouble, "rename it to letters, digits, '.', '_' and '-'")


def _check_directory_revision(variable: str, revision: object) -> Iterator[str]:
    if revision is not None and not (isinstance(revision, str) and STORED_NAME.fullmatch(revision)):
        remedy = "use letters, digits, '.', '_' and '-' in quotes, or drop the line"
        yield problem(variable, revision, "which cannot name a directory's revision", remedy)


def _check_hub_revision(where: str, model: str, revision: object) -> Iterator[str]:
    remedy = "pin the model to a commit, 40 hexadecimal digits in quotes"
    if revision is None or revision == "":
        also = f"{remedy}, or write ./{model} if it is meant as a directory beside the playbook"
        yield sentence(f"{where}.revision is missing, and {where}.model is the hub id {model}", also)
    elif not isinstance(revision, str) or not COMMIT.fullmatch(revision):
        yield problem(f"{where}.revision", revision, "not a commit", remedy)


def _check_port(variable: str, port: Any) -> Iterator[str]:
    remedy = f"give a number from {PORTS[0]} to {PORTS[-1]}, without quotes"
    if port is None:
        yield missing(variable, remedy)
    elif not is_whole(port) or port not in PORTS:
        yield problem(variable, port, "not a port that vLLM takes", remedy)


def _check_frontend_port(variable: str, port: Any) -> Iterator[str]:
    if port is not None and not (is_whole(port) and 0 < port <= PORTS[-1]):
        remedy = f"give a number from 1 to {PORTS[-1]}, without quotes, or drop the line"
        yield problem(variable, port, "not a port of a load balancer", remedy)


def _check_gpus(where: str, words: Mapping[Any, Any], with_gpus: bool) -> Iterator[str]:
    variable, gpus = f"{where}.gpus", words.get("gpus")
    if gpus is None:
        if with_gpus:
            yield missing(variable, "list the numbers of the GPUs that the instance uses, such as [0]")
        return
    if not isinstance(gpus, (list, tuple)) or not all(map(_is_gpu, gpus)):
        yield problem(variable, gpus, "not a list of GPU numbers", "write one that counts from 0, such as [0, 1]")
    elif len(set(gpus)) < len(gpus):
        yield problem(variable, gpus, "which names a GPU twice", "name each GPU once")
    elif with_gpus:
        yield from _check_enough_gpus(where, gpus, _args(words))


def _check_enough_gpus(where: str, gpus: Sequence[int], args: Mapping[str, Any]) -> Iterator[str]:
    sizes = _sizes(args)
    for option, size in sizes.items():
        if size < 1:
            yield problem(f"{where}.args.{option}", size, "not a number of GPUs", "give a number from 1 on")
            return
    needed = math.prod(sizes.values())
    # An instance over several nodes has only a part of its GPUs here.
    if needed > len(gpus) and args.get("nnodes", 1) == 1:
        factors = " x ".join(f"{option} {shown(size)}" for option, size in sizes.items())
        trouble = f"but {factors} needs {shown(needed)} GPU{'s' if needed > 1 else ''}"
        yield problem(f"{where}.gpus", list(gpus), trouble, "list that many, or lower the sizes in args")


def _sizes(args: Mapping[str, Any]) -> dict[str, int]:
    """The options whose product is the number of GPUs; what is no number is a problem of the option already."""
    options = ["tensor-parallel-size", "pipeline-parallel-size"]
    options += [option for option in ("prefill-context-parallel-size", "data-parallel-size-local") if option in args]
    # With a rank, the other ranks are instances of their own.
    if "data-parallel-size" in args and not {"data-parallel-size-local", "data-parallel-rank"} & set(args):
        options.append("data-parallel-size")
    return {option: _size(args.get(option, 1)) for option in options}


def _size(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,4}", value):
        return int(value)
    return int(value) if is_whole(value) else 1


def _check_share(variable: str, args: Mapping[str, Any]) -> Iterator[str]:
    for option in SHARE_OPTIONS:
        value = args.get(option)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and memory_share({option: value}) is None:
            yield problem(f"{variable}.{option}", value, "not a share", "give a number above 0, 1 at most")


def _check_env(variable: str, env: object) -> Iterator[str]:
    remedy = "write 'NAME: \"value\"', numbers in quotes too"
    if not isinstance(env, Mapping):
        yield sentence(f"{variable} is not a mapping of names to strings", remedy)
        return
    for name, value in env.items():
        # The value is not shown: it may be a secret.
        if not isinstance(name, str) or not ENVIRONMENT_NAME.fullmatch(name):
            yield sentence(f"{variable} has {key(name)}, which cannot name a variable", remedy)
        elif not isinstance(value, str):
            yield sentence(f"{variable}.{name} is not a string", remedy)
        elif "\n" in value or "\0" in value:
            yield sentence(f"{variable}.{name} has more than one line", "write it in one")


def _check_settings(variable: str, settings: object) -> Iterator[str]:
    remedy = "write 'MemoryMax: 64G', or a list of values"
    if not isinstance(settings, Mapping):
        yield sentence(f"{variable} is not a mapping of a unit's settings to their values", remedy)
        return
    for name, value in settings.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not isinstance(name, str) or not SETTING.fullmatch(name):
            yield sentence(f"{variable} has {key(name)}, which is no setting of a unit's section [Service]", remedy)
        elif name in CONTRACT:
            yield sentence(f"{variable}.{name} is set, which the runtime itself needs", "leave it out")
        elif not values or not all(isinstance(item, (str, int, float)) for item in values):
            yield problem(f"{variable}.{name}", value, "not a value of a setting", remedy)
        elif any("\n" in str(item) or "\0" in str(item) for item in values):
            yield problem(f"{variable}.{name}", value, "which has more than one line", "write a list")


def _check_unique(word: str, instances: Sequence[Instance]) -> Iterator[str]:
    first: dict[object, Instance] = {}
    for instance in instances:
        value = getattr(instance, word)
        if value is None:
            continue
        other = first.setdefault(value, instance)
        if other is not instance:
            trouble = f"the {word} of {other.where} too"
            yield problem(f"{instance.where}.{word}", value, trouble, f"give each instance a {word} of its own")


def _check_shares(instances: Sequence[Instance]) -> Iterator[str]:
    users: defaultdict[int, list[Instance]] = defaultdict(list)
    for instance in instances:
        for gpu in instance.gpus:
            users[gpu].append(instance)
    # One sentence for all GPUs that the same instances share.
    shared: defaultdict[tuple[Instance, ...], list[int]] = defaultdict(list)
    for gpu, sharing in sorted(users.items()):
        shared[tuple(sharing)].append(gpu)
    for together, gpus in shared.items():
        shares = [(instance.label, instance.share) for instance in together if instance.share]
        total = math.fsum(share for _label, share in shares)
        if total > 1 + 1e-9:
            said = listed(f"{label} {share:g}" for label, share in shares)
            trouble = f"but GPU {listed(gpus)} would give {total:g} of its memory, {said}"
            remedy = "lower gpu-memory-utilization in their args to 1 in sum, or use other GPUs"
            yield problem(f"{together[-1].where}.gpus", list(together[-1].gpus), trouble, remedy)
