# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence that the inventory alone can earn, and that nothing it may hold raises."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._inventory import check, groups, host, models, options
from ansible_collections.inferops.vllm.plugins.module_utils._inventory.instances import read
from ansible_collections.inferops.vllm.plugins.module_utils._inventory.wording import listed, shown

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TABLE = options.load("0.33.0")
assert TABLE is not None


def instance(**words: Any) -> dict[str, Any]:
    """A good instance but for some words; a word of ... is left out."""
    good = {"name": "tiny", "model": "org/tiny", "revision": COMMIT, "port": 8000, "gpus": [0]}
    return {word: value for word, value in {**good, **words}.items() if value is not ...}


def problems(*instances: Any, found: dict[str, models.Model] | None = None, **words: Any) -> list[str]:
    said = {"instances": list(instances), "version": "0.33.0", **words}
    return check.check_words(check.Words(**said), found or {}, TABLE)


def with_args(**args: Any) -> dict[str, Any]:
    return instance(args={option.replace("_", "-"): value for option, value in args.items()})


def test_good_inventory() -> None:
    first = instance(
        args={"max-model-len": "32k", "gpu-memory-utilization": 0.45, "enforce-eager": False}, env={"A": "1"}
    )
    second = instance(
        name="other", port=8001, args={"gpu-memory-utilization": 0.5, "limit-mm-per-prompt": {"image": 4}}
    )
    third = instance(name="wide", port=8002, gpus=[1, 2], args={"tensor-parallel-size": 2, "dtype": "bfloat16"})
    assert problems(first, second, third) == []


def test_no_instances() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("instances", "sentence"),
    [
        (None, "vllm_instances is missing: list the instances that the host serves, or write [] for none."),
        ("tiny", 'vllm_instances is "tiny", not a list: write a list of mappings, each with name, model and port.'),
        (["tiny"], 'vllm_instances[0] is "tiny", not a mapping: write one with name, model and port.'),
    ],
)
def test_instances_of_the_wrong_type(instances: Any, sentence: str) -> None:
    assert problems(instances=instances) == [sentence]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            {"name": "my model"},
            (
                'vllm_instances[0].name is "my model", which cannot name a unit:'
                " use letters, digits, '.', '_' and '-', a letter or a digit first, 64 at most."
            ),
        ),
        ({"name": "../etc"}, 'vllm_instances[0].name is "../etc", which cannot name a unit'),
        ({"name": 7}, "vllm_instances[0].name is 7, which cannot name a unit"),
        ({"name": ...}, "vllm_instances[0].name is missing"),
        ({"port": ...}, "vllm_instances[0].port is missing: give a number from 1024 to 65535, without quotes."),
        ({"port": 80}, "vllm_instances[0].port is 80, not a port that vLLM takes"),
        ({"port": 65536}, "vllm_instances[0].port is 65536, not a port"),
        ({"port": "8000"}, 'vllm_instances[0].port is "8000", not a port'),
        ({"port": True}, "vllm_instances[0].port is true, not a port"),
        ({"model": ...}, "vllm_instances[0].model is missing"),
        ({"model": ["org/tiny"]}, 'vllm_instances[0].model is ["org/tiny"], not a string'),
        (
            {"model": "tiny"},
            'vllm_instances[0].model is "tiny", neither a directory on the controller nor an id on the hub',
        ),
        ({"model": "s3://bucket/tiny"}, 'vllm_instances[0].model is "s3://bucket/tiny", neither a directory'),
        ({"frontend_port": 0}, "vllm_instances[0].frontend_port is 0, not a port of a load balancer"),
        (
            {"revision": ...},
            (
                "vllm_instances[0].revision is missing, and vllm_instances[0].model is the hub id org/tiny:"
                " pin the model to a commit, 40 hexadecimal digits in quotes,"
                " or write ./org/tiny if it is meant as a directory beside the playbook."
            ),
        ),
        ({"revision": "main"}, 'vllm_instances[0].revision is "main", not a commit: pin the model to a commit'),
        ({"revision": COMMIT[:12]}, f'vllm_instances[0].revision is "{COMMIT[:12]}", not a commit'),
        ({"revision": 12345}, "vllm_instances[0].revision is 12345, not a commit"),
        ({"gpus": ...}, "vllm_instances[0].gpus is missing: list the numbers of the GPUs"),
        ({"gpus": 0}, "vllm_instances[0].gpus is 0, not a list of GPU numbers"),
        ({"gpus": ["0"]}, 'vllm_instances[0].gpus is ["0"], not a list of GPU numbers'),
        ({"gpus": [0, 0]}, "vllm_instances[0].gpus is [0, 0], which names a GPU twice"),
        (
            {"gpus": []},
            "vllm_instances[0].gpus is [], but tensor-parallel-size 1 x pipeline-parallel-size 1 needs 1 GPU",
        ),
        ({"args": ["max-model-len"]}, 'vllm_instances[0].args is ["max-model-len"], not a mapping'),
        ({"env": ["A=1"]}, "vllm_instances[0].env is not a mapping of names to strings"),
        ({"env": {"A": 1}}, "vllm_instances[0].env.A is not a string: write 'NAME: \"value\"', numbers in quotes too."),
        ({"env": {"A-B": "1"}}, "vllm_instances[0].env has A-B, which cannot name a variable"),
        ({"env": {"A": "1\n2"}}, "vllm_instances[0].env.A has more than one line"),
        (
            {"systemd": "MemoryMax=1G"},
            "vllm_instances[0].systemd is not a mapping of a unit's settings to their values",
        ),
        ({"systemd": {"Memory Max": 1}}, 'vllm_instances[0].systemd has "Memory Max", which is no setting'),
        (
            {"systemd": {"KillMode": "none"}},
            "vllm_instances[0].systemd.KillMode is set, which the runtime itself needs",
        ),
        ({"systemd": {"Nice": None}}, "vllm_instances[0].systemd.Nice is null, not a value of a setting"),
        ({"systemd": {"Nice": []}}, "vllm_instances[0].systemd.Nice is [], not a value of a setting"),
        ({"systemd": {"Nice": "1\nUser=root"}}, "vllm_instances[0].systemd.Nice is "),
        ({"arg": {}}, "vllm_instances[0].arg is set, but no instance has such a key: did you mean args?"),
        (
            {"colour": "red"},
            "vllm_instances[0].colour is set, but no instance has such a key: an instance has args, env,",
        ),
    ],
)
def test_one_wrong_word(words: dict[str, Any], sentence: str) -> None:
    (problem,) = problems(instance(**words))
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("max-model-length", 1024, "is 1024, but vllm serve 0.33.0 has no such option: did you mean max-model-len?"),
        ("max_model_len", 1024, "is 1024, but vllm serve 0.33.0 has no such option: write max-model-len."),
        ("--max-model-len", 1024, "is 1024, but vllm serve 0.33.0 has no such option: write max-model-len."),
        ("tp", 2, "is 2, but vllm serve 0.33.0 has no such option: write it out as tensor-parallel-size."),
        ("no-enforce-eager", True, "has no such option: write 'enforce-eager: false'."),
        ("compilation-config.mode", 3, "has no such option: write compilation-config as a mapping."),
        ("xyzzy", 1, "has no such option: vllm serve --help=all lists those it has."),
        (
            "disable-log-stats",
            False,
            "which vLLM would drop in silence, as the option has no --no- form: drop the line.",
        ),
        ("disable-log-stats", "yes", "but the option takes no value: write true, or drop the line."),
        ("max-model-len", False, "which vLLM would drop in silence: give the option its value, or drop the line."),
        ("max-model-len", True, "but the option takes a value"),
        ("max-model-len", None, "is null, which is no value"),
        ("max-model-len", "long", "but the option takes an integer"),
        ("max-model-len", 1024.5, "but the option takes an integer"),
        ("max-model-len", [1024], "but the option takes one value: write it without the list."),
        ("max-model-len", {"value": 1}, "but the option takes no mapping"),
        ("gpu-memory-utilization", "most", "but the option takes a number"),
        ("gpu-memory-utilization", 95, "is 95, not a share: give a number above 0, 1 at most."),
        ("enforce-eager", "false", "but the option is a switch: write true or false."),
        (
            "dtype",
            "bf16",
            "which is none of the option's choices: use auto, bfloat16, float, float16, float32 or half.",
        ),
        ("served-model-name", [], "which vLLM would drop in silence: give it an item, or drop the line."),
        ("lora-modules", [{"name": "a"}], "but vLLM reads each item as plain text"),
        ("allowed-origins", ["*"], "write it as a string, '[\"*\"]'."),
        ("tensor-parallel-size", 0, "is 0, not a number of GPUs: give a number from 1 on."),
        ("api-key", "secret", "is set, but is no option for args: list the keys in vllm_api_keys"),
        ("api_key", "secret", "is set, but is no option for args"),
        ("model", "secret", "is set, but is no option for args: say it as the instance's model."),
        ("port", 1, "is set, but is no option for args: say it as the instance's port."),
        ("host", "::", "is set, but is no option for args"),
        ("config", "x", "is set, but is no option for args"),
        ("revision", "x", "is set, but is no option for args"),
        (3, 4, "is 4, but vllm serve 0.33.0 has no such option"),
    ],
)
def test_one_wrong_option(option: Any, value: Any, sentence: str) -> None:
    (problem,) = problems(instance(args={option: value}))
    assert problem.startswith(f"vllm_instances[0].args.{option} is ")
    assert sentence in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max-model-len", "auto"),
        ("max-model-len", "1024"),
        ("max-num-seqs", 8),
        ("gpu-memory-utilization", "0.5"),
        ("kv-cache-memory-bytes", "4G"),
        ("enforce-eager", True),
        ("disable-log-stats", True),
        ("disable-lora", True),
        ("served-model-name", "tiny"),
        ("served-model-name", ["tiny", "small"]),
        ("compilation-config", {"mode": 3}),
        ("allowed-origins", '["*"]'),
        ("moe-backend", "deep-gemm"),
        ("max-lora-rank", 16),
    ],
)
def test_one_right_option(option: str, value: Any) -> None:
    assert problems(instance(args={option: value})) == []


@pytest.mark.parametrize(
    ("args", "gpus", "needed"),
    [
        ({"tensor-parallel-size": 2}, [0], "tensor-parallel-size 2 x pipeline-parallel-size 1 needs 2 GPUs"),
        ({"tensor-parallel-size": "2", "pipeline-parallel-size": 2}, [0, 1, 2], "needs 4 GPUs"),
        ({"data-parallel-size": 2}, [0], "pipeline-parallel-size 1 x data-parallel-size 2 needs 2 GPUs"),
        ({"data-parallel-size": 8, "data-parallel-size-local": 2}, [0], "data-parallel-size-local 2 needs 2 GPUs"),
        ({"data-parallel-size": 8, "data-parallel-rank": 1}, [0], None),
        ({"tensor-parallel-size": 16, "nnodes": 2}, [0, 1, 2, 3, 4, 5, 6, 7], None),
        ({"tensor-parallel-size": 2}, [0, 1, 2], None),
    ],
)
def test_gpus_against_parallel_sizes(args: dict[str, Any], gpus: list[int], needed: str | None) -> None:
    said = problems(instance(gpus=gpus, args=args))
    if needed is None:
        assert said == []
    else:
        assert len(said) == 1
        assert said[0].startswith(f"vllm_instances[0].gpus is {gpus}, but ")
        assert needed in said[0]


def test_two_instances_on_one_port() -> None:
    assert problems(instance(), instance(name="other", gpus=[1])) == [
        "vllm_instances[1].port is 8000, the port of vllm_instances[0] too: give each instance a port of its own."
    ]


def test_two_instances_of_one_name() -> None:
    assert problems(instance(), instance(port=8001, gpus=[1])) == [
        'vllm_instances[1].name is "tiny", the name of vllm_instances[0] too: give each instance a name of its own.'
    ]


def test_two_instances_on_one_gpu() -> None:
    assert problems(instance(gpus=[0, 1]), instance(name="other", port=8001, gpus=[1, 0])) == [
        (
            "vllm_instances[1].gpus is [1, 0], but GPU 0 and 1 would give 1.84 of its memory, tiny 0.92 and other 0.92:"
            " lower gpu-memory-utilization in their args to 1 in sum, or use other GPUs."
        )
    ]


def test_shares_add_up_to_one() -> None:
    shares = [instance(name=f"n{n}", port=8000 + n, args={"gpu-memory-utilization": 0.1}) for n in range(10)]
    assert problems(*shares) == []


def test_gpus_do_not_matter_on_cpu() -> None:
    assert problems(instance(gpus=...), instance(name="b", port=8001, gpus=[]), variant="cpu") == []


@pytest.mark.parametrize(
    ("word", "value", "sentence"),
    [
        ("version", None, 'vllm_version is missing: give a release in quotes, such as "0.33.0".'),
        ("version", 0.33, "vllm_version is 0.33, not a release of vLLM"),
        ("version", "latest", 'vllm_version is "latest", not a release of vLLM'),
        ("variant", "rocm", 'vllm_variant is "rocm", an unknown variant: use cuda or cpu.'),
        ("variant", ["cuda"], 'vllm_variant is ["cuda"], an unknown variant'),
        ("runtime", "sytemd", 'vllm_runtime is "sytemd", an unknown runtime: did you mean systemd?'),
        (
            "runtime",
            "runit",
            'vllm_runtime is "runit", an unknown runtime: use systemd, supervisor, docker, tmux or screen.',
        ),
        ("runtime", None, "vllm_runtime is null, an unknown runtime"),
        ("user", "v llm", 'vllm_user is "v llm", which cannot name a user'),
        ("user", "root", 'vllm_user is "root", and a server must not run as root: name a user of its own'),
        ("user", 1000, "vllm_user is 1000, which cannot name a user"),
        ("root", "opt/vllm", 'vllm_root is "opt/vllm", not the path of a directory'),
        ("root", "/opt/../vllm", 'vllm_root is "/opt/../vllm", not the path of a directory'),
        ("root", {}, "vllm_root is {}, not the path of a directory"),
    ],
)
def test_one_wrong_shared_word(word: str, value: Any, sentence: str) -> None:
    (problem,) = problems(**{word: value})
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    ("docker", "sentence"),
    [
        (
            {"image": "vllm/vllm-openai:v0.33.0", "base_image": "debian:12"},
            'vllm_docker_image is "vllm/vllm-openai:v0.33.0", beside vllm_docker_base_image:'
            " an image that brings vLLM is not built: set one of them.",
        ),
        ({"image": 5}, "vllm_docker_image is 5, which cannot be one: name one, such as"),
        ({"base_image": "a b"}, 'vllm_docker_base_image is "a b", which cannot be one'),
        ({"archive": None}, "vllm_docker_archive is null, which cannot be one: give a path without spaces"),
        ({"install": "maybe"}, 'vllm_docker_install is "maybe", neither true nor false'),
    ],
)
def test_one_wrong_word_for_docker(docker: dict[str, Any], sentence: str) -> None:
    (problem,) = problems(runtime="docker", docker=docker)
    assert problem.startswith(sentence)
    assert problems(docker=docker) == []


class TestModels:
    def test_directory(self, tmp_path: Any) -> None:
        (tmp_path / "models/tiny").mkdir(parents=True)
        (tmp_path / "models/tiny/config.json").write_text("{}")
        (tmp_path / "weights").write_bytes(b"12345")
        (tmp_path / "models/tiny/model.safetensors").symlink_to(tmp_path / "weights")
        directory = str(tmp_path / "models/tiny")
        expected = models.Model(directory, exists=True, has_config=True, size_bytes=7)
        for model in ("./models/tiny", "models/tiny/", directory):
            assert models.find(model, str(tmp_path)) == expected
            assert problems(instance(model=model, revision=...), found={model: expected}) == []

    @pytest.mark.parametrize(("revision", "good"), [("v1", True), (COMMIT, True), ("v 1", False), (1, False)])
    def test_revision_of_a_directory(self, revision: Any, good: bool) -> None:
        found = {"/m": models.Model("/m", exists=True, has_config=True)}
        assert (problems(instance(model="/m", revision=revision), found=found) == []) is good

    def test_directory_of_an_impossible_name(self, tmp_path: Any) -> None:
        (tmp_path / "my model").mkdir()
        (tmp_path / "my model/config.json").write_text("{}")
        (problem,) = problems(
            instance(model="./my model"), found={"./my model": models.find("./my model", str(tmp_path))}
        )
        assert problem.startswith('vllm_instances[0].model is "./my model", whose last part would be the name')

    def test_directory_without_configuration(self, tmp_path: Any) -> None:
        found = models.find(".", str(tmp_path))
        assert problems(instance(model="."), found={".": found}) == [
            (
                f'vllm_instances[0].model is ".", but {tmp_path} has no config.json:'
                " give the directory that holds the model's files themselves."
            )
        ]

    @pytest.mark.parametrize(
        "model", ["tiny", "./tiny", "/no/tiny", "../tiny", "~/no tiny", "a/b/c", "s3://bucket/tiny"]
    )
    def test_no_directory(self, model: str, tmp_path: Any) -> None:
        (problem,) = problems(instance(model=model), found={model: models.find(model, str(tmp_path))})
        assert problem.startswith(f'vllm_instances[0].model is "{model}", but the controller has no directory /')

    @pytest.mark.parametrize("model", ["org/tiny", "/a\0b"])
    def test_no_path(self, model: str, tmp_path: Any) -> None:
        assert models.find(model, str(tmp_path)) == models.Model(None)


class TestTables:
    @pytest.mark.parametrize("version", ["0.32.0", "0.33.0", "0.33.0+cpu"])
    def test_shipped(self, version: str) -> None:
        table = options.load(version)
        assert table is not None
        assert table.version == version.partition("+")[0]
        assert table.kinds["max-model-len"] == "integer"
        assert table.kinds["enforce-eager"] == "switch"
        assert table.kinds["disable-log-stats"] == "flag"
        assert table.short_names["tp"] == "tensor-parallel-size"
        assert set(options.MANAGED) <= set(table.kinds)

    @pytest.mark.parametrize("version", ["0.31.0", "../0.33.0", "", None, 0.33])
    def test_none(self, version: object) -> None:
        assert options.load(version) is None

    def test_unknown_release_is_a_warning(self) -> None:
        words = check.Words(instances=[instance(args={"anything": "goes", "api-key": "x"})], version="0.31.0")
        (problem,) = check.check_words(words, {}, None)
        assert "api-key is set" in problem
        assert check.warnings(words, None) == [
            'vllm_version is "0.31.0", whose options are not known here: args are not checked.'
        ]
        assert check.warnings(words, TABLE) == []
        assert check.warnings(check.Words(instances=[], version="latest"), None) == []


class TestGroups:
    def test_siblings_contradict(self) -> None:
        found = [
            groups.Group("lab", (1, 1), {"vllm_variant": "cpu"}),
            groups.Group("gpu", (1, 1), {"vllm_variant": "cuda", "vllm_user": "vllm"}),
        ]
        assert list(groups.check_groups(found)) == [
            (
                'vllm_variant is "cuda" in group gpu and "cpu" in group lab,'
                " and Ansible takes one of them without a word:"
                " set it in one of them, or for the host, or raise the ansible_group_priority of one."
            )
        ]
        assert list(groups.check_groups(found, settled={"vllm_variant"})) == []

    @pytest.mark.parametrize("rank", [(2, 1), (1, 10), (0, 1)])
    def test_a_higher_rank_decides(self, rank: tuple[int, int]) -> None:
        found = [groups.Group("a", (1, 1), {"vllm_user": "a"}), groups.Group("b", rank, {"vllm_user": "b"})]
        assert list(groups.check_groups(found)) == []

    def test_agreement(self) -> None:
        found = [groups.Group(name, (1, 1), {"vllm_user": "vllm", "other": name}) for name in "ab"]
        assert list(groups.check_groups(found)) == []

    def test_instances_are_not_shown(self) -> None:
        found = [
            groups.Group(name, (1, 1), {"vllm_instances": [{"env": {"A": "secret"}, "name": name}]}) for name in "ab"
        ]
        (problem,) = groups.check_groups(found)
        assert problem.startswith("vllm_instances is set differently in the groups a and b")
        assert "secret" not in problem

    def test_peers(self) -> None:
        served = {
            "n1": read([instance()]),
            "n2": read([instance(), instance(name="other", model="org/other")]),
            "n3": read([instance(model="org/big")]),
        }
        assert list(groups.check_peers(served)) == [
            (
                "n3",
                (
                    'vllm_instances[0] serves "org/big" at 0123456789ab by the name tiny, which stands for'
                    ' "org/tiny" at 0123456789ab on n1 and n2 behind the same load balancer:'
                    " serve one model, or give the two different names."
                ),
            )
        ]

    def test_many_peers(self) -> None:
        served = {f"n{n}": read([instance(revision=COMMIT if n else COMMIT[::-1])]) for n in range(9)}
        ((name, problem),) = groups.check_peers(served)
        assert name == "n0"
        assert "on n1 with 7 others behind" in problem


class TestHost:
    LIMITS = host.Limits(venv_disk_gb=12, shm_min_gb=1, shm_per_instance_mib=160, driver_min=580)
    SOUND: ClassVar[dict[str, Any]] = {
        "loaded": "580.159.04",
        "library": "580.159.04",
        "libcuda": "580.159.04",
        "kernels": [],
        "packages": {},
        "managed": "nvidia",
        "reboot_pending": "",
    }
    TINY = models.Model("/srv/tiny", exists=True, has_config=True, size_bytes=5 * 10**9)

    def plan(self, *instances: Any, variant: str = "cuda", limits: host.Limits = LIMITS) -> host.Plan:
        words = check.Words(instances=list(instances), version="0.33.0", variant=variant)
        return host.Plan(words, {"/m": self.TINY}, "/var/lib/vllm/models", limits)

    def facts(self, plan: host.Plan, **changes: Any) -> dict[str, Any]:
        good = {
            "distribution": {"id": "debian", "version": "12", "name": "Debian 12"},
            "service_manager": "systemd",
            "paths": {path: {"exists": False, "device": 1, "free_bytes": 10**12} for path in plan.paths},
            "shm_bytes": 10**9,
            "is_root": True,
            "listeners": [],
            "gpu_count": 2,
            "driver": "580.159.04",
            "nvidia_driver": self.SOUND,
            "docker": {"engine": True, "gpus": True},
        }
        return {**good, **changes}

    def problems(self, plan: host.Plan, **changes: Any) -> list[str]:
        return host.check_host(plan, self.facts(plan, **changes))

    def test_good(self) -> None:
        assert self.problems(self.plan(instance())) == []

    @pytest.mark.parametrize(
        ("family", "docker", "words", "sentences"),
        [
            ("debian", {"engine": False, "gpus": True}, {}, []),
            (
                "debian",
                {"engine": False, "gpus": True},
                {"install": False},
                ["vllm_docker_install is false, but no Docker engine answers on the host: start Docker on the host"],
            ),
            (
                "debian",
                {"engine": True, "gpus": False},
                {},
                ['vllm_runtime is "docker", but the host has no NVIDIA container toolkit'],
            ),
            (
                "rocky",
                {"engine": False, "gpus": True},
                {},
                [
                    'vllm_runtime is "docker", which the host\'s distribution does not have: install Docker',
                    'vllm_docker_image is "", but images are built on Debian and Ubuntu alone: name one',
                ],
            ),
            ("rocky", {"engine": True, "gpus": True}, {"image": "vllm/vllm-openai:v0.33.0"}, []),
        ],
    )
    def test_docker(self, family: str, docker: dict[str, bool], words: dict[str, Any], sentences: list[str]) -> None:
        plan = self.plan(instance())
        plan = replace(plan, words=replace(plan.words, runtime="docker", docker=words))
        version = {"debian": "12", "rocky": "9.6"}[family]
        found = self.problems(plan, docker=docker, distribution={"id": family, "version": version, "name": family})
        assert len(found) == len(sentences)
        assert all(map(str.startswith, found, sentences))

    @pytest.mark.parametrize(
        ("name", "version", "supported"),
        [
            ("debian", "13", True),
            ("debian", "11", False),
            ("debian", "", False),
            ("ubuntu", "24.04", True),
            ("ubuntu", "25.10", False),
            ("rocky", "9.6", True),
            ("rhel", "10.0", False),
            ("fedora", "41", False),
            ("", "", False),
        ],
    )
    def test_distribution(self, name: str, version: str, supported: bool) -> None:
        found = {"id": name, "version": version, "name": ""}
        assert (self.problems(self.plan(), distribution=found) == []) is supported

    def test_unsupported_distribution(self) -> None:
        found = {"id": "fedora", "version": "41", "name": "Fedora Linux 41"}
        assert self.problems(self.plan(), distribution=found) == [
            (
                "the distribution is Fedora Linux 41, which is not supported:"
                " use Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9."
            )
        ]

    def test_no_systemd(self) -> None:
        (problem,) = self.problems(self.plan(), service_manager="")
        assert problem.startswith('vllm_runtime is "systemd", but systemd does not run on the host')

    def test_one_full_disk(self) -> None:
        plan = self.plan(instance(model="/m", revision=COMMIT))
        paths = {path: {"exists": False, "device": 1, "free_bytes": 10 * 10**9} for path in plan.paths}
        assert self.problems(plan, paths=paths) == [
            (
                'vllm_root is "/opt/vllm", but the disk of /opt/vllm has 10 GB left'
                " for the environment of vLLM 0.33.0 (12 GB) and the model of tiny (5 GB):"
                " free 7 GB more, or use another disk."
            )
        ]

    def test_two_disks(self) -> None:
        plan = self.plan(instance(model="/m", revision=COMMIT))
        paths = {
            path: {"exists": False, "device": "models" in path, "free_bytes": 10**9 if "models" in path else 10**12}
            for path in plan.paths
        }
        (problem,) = self.problems(plan, paths=paths)
        assert problem.startswith('vllm_instances[0].model is "/m", but the disk of /var/lib/vllm/models has 1 GB left')

    def test_what_is_there_takes_nothing(self) -> None:
        plan = self.plan(instance(model="/m", revision=COMMIT))
        there = {plan.venv, f"/var/lib/vllm/models/tiny/{COMMIT}"}
        assert there < set(plan.paths)
        paths = {path: {"exists": path in there, "device": 1, "free_bytes": 0} for path in plan.paths}
        assert self.problems(plan, paths=paths) == []

    def test_shm(self) -> None:
        assert self.problems(self.plan(instance()), shm_bytes=64 * 2**20) == [
            (
                "/dev/shm has 0.0671 GB, but an instance needs 1 GB:"
                " mount it with a larger size (of a container: --shm-size), or lower preflight_shm_min_gb."
            )
        ]
        many = [instance(name=f"n{n}", port=8000 + n) for n in range(8)]
        (problem,) = self.problems(self.plan(*many))
        assert problem.startswith("/dev/shm has 1 GB, but 8 instances need 1.34 GB")
        assert self.problems(self.plan(), shm_bytes=0) == []

    @pytest.mark.parametrize(
        ("listener", "is_root", "trouble"),
        [
            (
                {"pid": 7, "program": "nginx", "instance": ""},
                True,
                "but nginx (pid 7) listens there: stop that program",
            ),
            ({"pid": 7, "program": "nginx", "instance": ""}, False, "but nginx (pid 7) listens there"),
            ({"pid": 7, "program": "python", "instance": "old"}, True, None),
            ({"pid": 7, "program": "python", "instance": "tiny"}, True, None),
            ({"pid": None, "program": "", "instance": ""}, True, "but another program listens there"),
            ({"pid": None, "program": "", "instance": ""}, False, None),
        ],
    )
    def test_port(self, listener: dict[str, Any], is_root: bool, trouble: str | None) -> None:
        plan = self.plan(instance())
        facts = self.facts(plan, listeners=[{"port": 8000, **listener}], is_root=is_root)
        said = host.check_host(plan, facts)
        if trouble is None:
            assert said == []
        else:
            (problem,) = said
            assert problem.startswith(f"vllm_instances[0].port is 8000, {trouble}")
        assert bool(host.warnings(facts)) is (listener["pid"] is None and not is_root)

    @pytest.mark.parametrize(
        ("driver", "sentence"),
        [
            ("", 'vllm_variant is "cuda", but the host has no NVIDIA driver loaded: install driver 580 or newer.'),
            (
                "550.54.15",
                'vllm_variant is "cuda", but the host\'s NVIDIA driver is 550.54.15: install driver 580 or newer.',
            ),
            ("590.1", None),
        ],
    )
    def test_driver(self, driver: str, sentence: str | None) -> None:
        assert self.problems(self.plan(), driver=driver) == ([sentence] if sentence else [])

    def test_gpus(self) -> None:
        plan = self.plan(instance(gpus=[1, 2]))
        assert self.problems(plan) == [
            "vllm_instances[0].gpus is [1, 2], but the host has no GPU 2, its 2 count from 0: name GPUs that it has."
        ]
        (problem,) = self.problems(plan, gpu_count=0)
        assert "but the host has no GPU at all" in problem

    def test_state_of_the_driver(self) -> None:
        """Which states there are is tested where they are told apart."""
        waiting = {**self.SOUND, "reboot_pending": "driver 575.57.08 is loaded"}
        [problem] = self.problems(self.plan(), nvidia_driver=waiting)
        assert problem.startswith(
            "the host waits for a reboot (driver 575.57.08 is loaded): reboot by ansible-playbook"
        )
        assert self.problems(self.plan(variant="cpu"), nvidia_driver=waiting) == []

    def test_neither_driver_nor_gpus(self) -> None:
        unlimited = host.Limits(venv_disk_gb=12, shm_min_gb=1, shm_per_instance_mib=160, driver_min=0)
        for plan in (self.plan(instance(gpus=[7]), limits=unlimited), self.plan(instance(), variant="cpu")):
            assert self.problems(plan, driver="", gpu_count=0) == []


def test_shown() -> None:
    assert shown("x" * 99) == f'"{"x" * 56}...'
    assert shown("\ud800") == '"\\ud800"'
    assert shown({("a",): object()}) == "a dict"
    assert shown(10**5000) == "a int"


@pytest.mark.parametrize(("words", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_listed(words: list[str], text: str) -> None:
    assert listed(words) == text


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["org/tiny", "/m", "tiny", COMMIT, "systemd", "cuda", "0.33.0"])
)
KEYS = (
    SCALARS
    | st.sampled_from(["name", "model", "port", "gpus", "args", "env", "revision", *options.MANAGED])
    | st.sampled_from(sorted(TABLE.kinds))
)
JUNK = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(KEYS, children, max_size=4),
    max_leaves=12,
)
INSTANCES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("tiny") | JUNK,
            "model": st.sampled_from(["/m", "org/tiny"]) | JUNK,
            "revision": st.just(COMMIT) | JUNK,
            "port": st.integers(1000, 70000) | JUNK,
            "gpus": st.lists(st.integers(-1, 8)) | JUNK,
            "args": st.dictionaries(st.sampled_from(sorted(TABLE.kinds)) | KEYS, JUNK) | JUNK,
            "env": st.dictionaries(st.text(), st.text() | JUNK) | JUNK,
        },
    )
    | JUNK,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(INSTANCES | JUNK, JUNK, st.sampled_from(["cuda", "cpu"]) | JUNK, JUNK, JUNK, JUNK)
def test_junk_never_raises(instances: Any, version: Any, variant: Any, runtime: Any, user: Any, root: Any) -> None:
    words = check.Words(instances, version, variant, runtime, user, root)
    test_host = TestHost()
    found = {item.model: test_host.TINY for item in read(instances) if item.model}
    plan = host.Plan(words, found, "/var/lib/vllm/models", test_host.LIMITS)
    said = [
        *check.check_words(words, found, options.load(version) or TABLE),
        *check.warnings(words, None),
        *host.check_host(plan, test_host.facts(plan, gpu_count=1, shm_bytes=0)),
        *groups.check_groups([groups.Group(name, (1, 1), {"vllm_instances": instances}) for name in "ab"]),
        *(problem for _host, problem in groups.check_peers({"a": read(instances), "b": read(instances)[1:]})),
    ]
    for sentence in said:
        assert sentence.encode()
        assert sentence[-1] in ".?"
        assert "\n" not in sentence
    json.dumps(plan.paths)
