#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: instance_config
short_description: Write the configuration of a node's vLLM instances
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Writes for each instance C(<name>.yaml), read by C(vllm serve --config), and C(<name>.json), read by the node's own
    tools, and says which running servers were started with another configuration, unit or environment than these.
  - The files of such a server are put aside in C(staged) beside O(config_dir) until M(inferops.vllm.vllm_instance)
    restarts it. One that ends before then is started again with what it had.
  - Starts, stops and restarts nothing.
attributes:
  check_mode:
    description: Reports which files would change and which servers would then be stale.
    support: full
  diff_mode:
    description: Shows the files' contents before and after, API keys masked.
    support: full
options:
  instances:
    description: All instances of the node.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the instance, part of its unit's name.
        type: str
        required: true
      port:
        description: TCP port of the server.
        type: int
        required: true
      model:
        description: The model as the inventory names it, a hub id or a directory.
        type: str
        required: true
      revision:
        description: Not used here; accepted so that inventory items can be handed on as they are.
        type: str
      frontend_port:
        description: Not used here; accepted so that inventory items can be handed on as they are.
        type: int
      gpus:
        description: Indices of the GPUs that the server may use; all of them where empty.
        type: list
        elements: int
        default: []
      args:
        description: Options of C(vllm serve) without the leading dashes.
        type: dict
        default: {}
      env:
        description: Environment variables of the server.
        type: dict
        default: {}
      systemd:
        description: Settings of its unit's section C([Service]), each one value or a list, with the runtime V(systemd).
        type: dict
        default: {}
  model_paths:
    description:
      - Directory on the node for each instance's name.
      - An instance missing here must have a directory on the node as its O(instances[].model).
    type: dict
    default: {}
  default_args:
    description: Options of C(vllm serve) for every instance; an instance's own O(instances[].args) win.
    type: dict
    default: {}
  environment:
    description: Environment variables for every server; an instance's own O(instances[].env) win.
    type: dict
    default: {}
  api_keys:
    description: Keys that the servers accept; without any they accept every request.
    type: list
    elements: str
    default: []
  hub_token:
    description: Token of the hub, for servers that load from it while they run.
    type: str
    default: ""
  host:
    description: Address that the servers bind to.
    type: str
    default: 0.0.0.0
  user:
    description: Service user; the files are readable by it and root alone.
    type: str
    default: vllm
  root:
    description: Directory of the virtual environments and their link C(current).
    type: path
    default: /opt/vllm
  venv:
    description: Virtual environment of the servers; the one that C(current) points to where not set.
    type: path
  config_dir:
    description: Directory of the files; created where missing.
    type: path
    default: /etc/vllm/instances
  shm_megabytes:
    description: Free space of /dev/shm, in MiB, without which an instance is not started.
    type: int
    default: 160
  start_grace_seconds:
    description: Seconds after a start within which no health check restarts the server.
    type: int
    default: 600
  unit_checksum:
    description: Checksum of the unit that runs the instances. A server that was started by another one is stale.
    type: str
    default: ""
  runtime:
    description: What keeps the instances running. A server that another runtime has started is stale.
    type: str
    choices: [systemd, supervisor, docker, tmux, screen]
    default: systemd
  working_dir:
    description: Directory that the servers run in, where their unit does not say.
    type: path
    default: /var/cache/vllm
  stop_timeout_seconds:
    description: Seconds after which what is left of a stopping server is killed, where its unit does not say.
    type: int
    default: 90
  restart_seconds:
    description: Seconds between a server's end and its next start, where its unit does not say.
    type: int
    default: 0
  open_files_max:
    description: Limit of open files of one instance, where its unit does not say.
    type: int
    default: 65536
  memory_max:
    description: Memory limit of one instance, as C(MemoryMax=) of systemd takes it, where its unit does not say.
    type: str
    default: ""
  agent_port:
    description: Port of the node's agent, whose verdict is behind the health of a container.
    type: int
    default: 9410
  image:
    description: Image of the containers, with the O(runtime) V(docker).
    type: str
    default: ""
  vllm_in_image:
    description: Whether the O(image) brings vLLM, rather than the environment in O(root).
    type: bool
    default: false
  read_only_paths:
    description: Files and directories of the node that containers see besides the models.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Configure the instances
  inferops.vllm.instance_config:
    instances: "{{ vllm_instances }}"
    model_paths: "{{ ansible_facts['vllm_model_paths'] }}"
  register: configured
"""

RETURN = r"""
changed_instances:
  description: Names of the instances with a file that changed, or would.
  type: list
  elements: str
  returned: success
stale:
  description: Names of the instances that run, with another configuration, unit or environment than the present one.
  type: list
  elements: str
  returned: success
surplus:
  description: Names of the instances that have files on the node and are not in O(instances).
  type: list
  elements: str
  returned: success
"""

import grp
import os
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.start import memory_share
from ansible_collections.inferops.vllm.plugins.module_utils._models.sources import is_hub_id
from ansible_collections.inferops.vllm.plugins.module_utils._serving import files, generations
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving

KEYS_OPTION = "api-key"
HUB_OPTION = "hf-token"


class ConfigError(Exception):
    """The input cannot be made into a configuration; the message is what the user reads."""


def model_path(spec: dict, model_paths: dict) -> str:
    """Directory of the instance's weights on this node."""
    if spec["name"] in model_paths:
        return model_paths[spec["name"]]
    path = spec["model"]
    if not (os.path.isabs(path) and os.path.isdir(path)):
        raise ConfigError(
            f"instance {spec['name']}: the model {spec['model']} has no directory on this node:"
            " run the role model_store first, or set model to a directory on the node"
        )
    return path


def served_names(spec: dict) -> list[str]:
    """A hub id is the name clients expect; for a directory it is the instance's name."""
    asked = spec["args"].get("served-model-name")
    if asked:
        return asked if isinstance(asked, list) else [asked]
    return [spec["model"] if is_hub_id(spec["model"]) else spec["name"]]


def options(spec: dict, params: dict) -> dict:
    """What the server is started with, as its configuration file has it."""
    own = {
        "model": model_path(spec, params["model_paths"]),
        "served-model-name": served_names(spec),
        "host": params["host"],
        "port": spec["port"],
    }
    merged = {**own, **params["default_args"], **spec["args"], "served-model-name": own["served-model-name"]}
    return {**merged, **secrets(params)}


def secrets(params: dict) -> dict:
    """The options that nobody else must see."""
    found = {KEYS_OPTION: params["api_keys"], HUB_OPTION: params["hub_token"]}
    return {option: value for option, value in found.items() if value}


def environment(spec: dict, params: dict) -> dict[str, str]:
    # A container has no others, and counts its own anew.
    chosen = spec["gpus"] if params["runtime"] != "docker" else []
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, chosen))} if chosen else {}
    # CUDA would number the GPUs by their speed, and not as the driver does.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if spec["gpus"] else {}
    merged = {**params["environment"], **order, **gpus, **spec["env"]}
    return {name: str(value) for name, value in merged.items()}


def settings(spec: dict) -> dict[str, list[str]]:
    """What its unit has beside the others' ones, in the words of systemd."""
    values = {name: value if isinstance(value, list) else [value] for name, value in spec["systemd"].items()}
    return {
        name: [("yes" if value else "no") if isinstance(value, bool) else str(value) for value in listed]
        for name, listed in values.items()
    }


def describe(spec: dict, params: dict) -> serving.Instance:
    return serving.Instance(
        name=spec["name"],
        port=spec["port"],
        served_model_name=served_names(spec)[0],
        user=params["user"],
        root=params["root"],
        venv=params["venv"] or os.path.realpath(os.path.join(params["root"], "current")),
        runtime=params["runtime"],
        address="127.0.0.1" if params["host"] in ("0.0.0.0", "::") else params["host"],
        environment=environment(spec, params),
        shm_bytes=params["shm_megabytes"] << 20,
        start_grace_seconds=params["start_grace_seconds"],
        gpus=spec["gpus"],
        gpu_memory_share=memory_share({**params["default_args"], **spec["args"]}) or 0.0,
        settings=settings(spec) if params["runtime"] == "systemd" else {},
        unit_checksum=params["unit_checksum"],
        working_dir=params["working_dir"],
        stop_timeout_seconds=params["stop_timeout_seconds"],
        restart_seconds=params["restart_seconds"],
        open_files_max=params["open_files_max"],
        memory_max=params["memory_max"],
        agent_port=params["agent_port"],
        **contained(spec, params),
        config_dir=params["config_dir"],
    )


def contained(spec: dict, params: dict) -> dict[str, Any]:
    """What an instance in a container needs besides."""
    if params["runtime"] != "docker":
        return {}
    return {
        "image": params["image"],
        "vllm_in_image": params["vllm_in_image"],
        "read_only_paths": [model_path(spec, params["model_paths"]), *params["read_only_paths"]],
    }


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""


def masked(text: str) -> str:
    return "".join(
        f"{option}: ********\n" if option in (KEYS_OPTION, HUB_OPTION) else line
        for line in text.splitlines(keepends=True)
        for option in [line.partition(":")[0]]
    )


class Files:
    """The configuration files of a node."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = module.params["config_dir"]
        self.staged = generations.directory(generations.STAGED, self.directory)
        self.diffs: list[dict] = []
        self.changed = False
        # In check mode the service user may be missing still.
        self.known_user = self._has_user(module.params["user"])
        self._make(self.directory)

    def _make(self, directory: str) -> None:
        missing = not os.path.isdir(directory)
        self.changed |= missing
        if not self.module.check_mode:
            os.makedirs(directory, exist_ok=True)
        if not missing or not self.module.check_mode:
            self.changed |= self._own(directory, 0o750, "root")

    @staticmethod
    def _has_user(user: str) -> bool:
        try:
            return bool(pwd.getpwnam(user))
        except KeyError:
            return False

    def put(self, name: str, texts: tuple[str, str], stage: bool, secret: bool) -> bool:
        """Write the files of an instance where they belong; whether anything changed."""
        if stage:
            self._make(self.staged)
        folder = self.staged if stage else self.directory
        changed = [
            self._put(os.path.join(folder, f"{name}.yaml"), texts[0], secret),
            self._put(os.path.join(folder, f"{name}.json"), texts[1], secret=False),
        ]
        if not stage:
            changed.append(self._unstage(name))
        return any(changed)

    def _unstage(self, name: str) -> bool:
        if not generations.has(generations.STAGED, name, self.directory):
            return False
        if not self.module.check_mode:
            generations.unstage(name, self.directory)
        self.changed = True
        return True

    def _put(self, path: str, text: str, secret: bool) -> bool:
        before = read(path)
        changed = before != text
        if changed:
            self.diffs.append(
                {"before": masked(before), "after": masked(text), "before_header": path, "after_header": path}
            )
            if not self.module.check_mode:
                files.replace(path, text, 0o600)
        if os.path.exists(path):
            # Keys are for the service user's eyes; the rest it may read and not alter.
            changed |= self._own(path, *((0o600, self.module.params["user"]) if secret else (0o640, "root")))
        self.changed |= changed
        return changed

    def _own(self, path: str, mode: int, owner: str) -> bool:
        group = grp.getgrgid(pwd.getpwnam(self.module.params["user"]).pw_gid).gr_name if self.known_user else None
        changed = self.module.set_mode_if_different(path, mode, False)
        changed = self.module.set_owner_if_different(path, owner if self.known_user else None, changed)
        return self.module.set_group_if_different(path, group, changed)


def run(module: AnsibleModule) -> dict:
    params = module.params
    files = Files(module)
    changed_instances, stale = [], []
    for spec in params["instances"]:
        described = describe(spec, params)
        config = serving.dump_config(options(spec, params))
        texts = (config, described.dump())
        pid = generations.main_pid(described)
        is_old = bool(pid) and generations.is_stale(described, config, pid)
        in_use = generations.texts(described.name, params["config_dir"])
        if files.put(described.name, texts, is_old and all(in_use) and in_use != texts, bool(secrets(params))):
            changed_instances.append(described.name)
        if is_old:
            stale.append(described.name)
    wanted = {spec["name"] for spec in params["instances"]}
    return {
        "changed": files.changed,
        "changed_instances": changed_instances,
        "stale": stale,
        "surplus": [name for name in serving.names(params["config_dir"]) if name not in wanted],
        "diff": files.diffs,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instances": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "model": {"type": "str", "required": True},
                    "revision": {"type": "str"},
                    "frontend_port": {"type": "int"},
                    "gpus": {"type": "list", "elements": "int", "default": []},
                    "args": {"type": "dict", "default": {}},
                    "env": {"type": "dict", "default": {}},
                    "systemd": {"type": "dict", "default": {}},
                },
            },
            "model_paths": {"type": "dict", "default": {}},
            "default_args": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "api_keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "hub_token": {"type": "str", "default": "", "no_log": True},
            "host": {"type": "str", "default": "0.0.0.0"},
            "user": {"type": "str", "default": "vllm"},
            "root": {"type": "path", "default": "/opt/vllm"},
            "venv": {"type": "path"},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "shm_megabytes": {"type": "int", "default": 160},
            "start_grace_seconds": {"type": "int", "default": 600},
            "unit_checksum": {"type": "str", "default": ""},
            "runtime": {"type": "str", "choices": list(serving.RUNTIMES), "default": "systemd"},
            "working_dir": {"type": "path", "default": "/var/cache/vllm"},
            "stop_timeout_seconds": {"type": "int", "default": 90},
            "restart_seconds": {"type": "int", "default": 0},
            "open_files_max": {"type": "int", "default": 65536},
            "memory_max": {"type": "str", "default": ""},
            "agent_port": {"type": "int", "default": 9410},
            "image": {"type": "str", "default": ""},
            "vllm_in_image": {"type": "bool", "default": False},
            "read_only_paths": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except ConfigError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
