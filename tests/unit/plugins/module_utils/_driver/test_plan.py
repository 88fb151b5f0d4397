# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver of a host is to be: golden files for people to compare with NVIDIA's guide, and every refusal.

UPDATE_GOLDEN=1 pytest tests/unit/plugins/module_utils/_driver writes the files anew; look at what is different before
it is committed.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.inferops.vllm.plugins.module_utils._driver import names, plan
from ansible_collections.inferops.vllm.plugins.module_utils._driver.plan import Settings

GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
COMPUTE = GUIDE + "compute-only-and-desktop-installation.html"
LOCKING = GUIDE + "version-locking.html"
TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
GOLDEN = Path(__file__).parent / "golden"

H100, B200, V100 = "0x2330", "0x2901", "0x1db1"
KERNELS = {"debian": "6.1.0-41-amd64", "ubuntu": "6.8.0-88-generic", "rocky": "5.14.0-611.5.1.el9_7.x86_64"}


def look(name: str = "debian", version: str = "12", **changes: Any) -> dict[str, Any]:
    """A host with two H100 and no driver, but for the changes."""
    bare = {
        "distribution": {"id": name, "version": version, "name": f"{name} {version}"},
        "architecture": "x86_64",
        "kernel": KERNELS.get(name, "6.0.0"),
        "kernels": [],
        "modules": {},
        "gpus": [{"address": f"0000:{bus}:00", "device": H100} for bus in ("3b", "5e")],
        "nvswitches": 0,
        "loaded": "",
        "library": "",
        "libcuda": "",
        "packages": {},
        "managed": "",
        "secure_boot": False,
        "nouveau": False,
        "runfile": False,
        "reboot_pending": "",
    }
    return {**bare, **changes}


def package(version: str, *, held: bool = False, complete: bool = True) -> dict[str, Any]:
    return {"version": version, "held": held, "complete": complete}


CASES = {
    "debian12": (Settings(), look(), GUIDE + "debian.html"),
    "debian13": (Settings(), look(version="13", kernel="6.12.57+deb13-cloud-amd64"), GUIDE + "debian.html"),
    "debian12_proprietary": (Settings(flavour="proprietary"), look(), GUIDE + "debian.html"),
    "debian12_distro": (
        Settings(source="distro", branch="535", variant="cpu"),
        look(),
        "https://packages.debian.org/bookworm/nvidia-open-kernel-dkms",
    ),
    "debian13_hgx_docker": (
        Settings(version="580.159.04", container_toolkit=True, container_toolkit_version="1.18.1"),
        look(version="13", nvswitches=4, kernel="6.12.57+deb13-amd64"),
        TOOLKIT,
    ),
    "ubuntu2204": (Settings(), look("ubuntu", "22.04", kernel="5.15.0-161-generic"), GUIDE + "ubuntu.html"),
    "ubuntu2404": (Settings(), look("ubuntu", "24.04"), GUIDE + "ubuntu.html"),
    "ubuntu2404_590": (Settings(branch="590"), look("ubuntu", "24.04", nvswitches=4), GUIDE + "ubuntu.html"),
    "ubuntu2404_arm": (
        Settings(),
        look("ubuntu", "24.04", architecture="aarch64", kernel="6.8.0-1040-nvidia-64k"),
        GUIDE + "ubuntu.html",
    ),
    "ubuntu2404_secure_boot": (
        Settings(),
        look("ubuntu", "24.04", secure_boot=True, kernel="6.14.0-35-generic"),
        "https://documentation.ubuntu.com/server/how-to/graphics/install-nvidia-drivers/",
    ),
    "rhel9": (Settings(), look("rocky", "9.6"), GUIDE + "red-hat-enterprise-linux.html"),
    "rhel9_proprietary_hgx": (
        Settings(flavour="proprietary", container_toolkit=True),
        look("rhel", "9.7", nvswitches=4, kernel=KERNELS["rocky"]),
        GUIDE + "red-hat-enterprise-linux.html",
    ),
}


def rendered(settings: Settings, facts: dict[str, Any], source: str) -> str:
    """As people read it: texts of files as they are, and long lists of names one after another."""

    class Dumper(yaml.SafeDumper):
        # A list stands further in than its key.
        def increase_indent(self, flow: bool = False, **_indentless: bool) -> None:
            super().increase_indent(flow)

    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    made = {key: value for key, value in asdict(plan.make(settings, facts)).items() if value}
    sources = "".join(f"#   {line}\n" for line in dict.fromkeys((source, COMPUTE, LOCKING)))
    text = yaml.dump(made, Dumper=Dumper, sort_keys=False, width=10**6, default_flow_style=False)
    return f"# What the role nvidia_driver sets up. To be compared with:\n{sources}---\n{text}"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    settings, facts, source = CASES[name]
    assert plan.check(settings, facts) == []
    text, file = rendered(settings, facts, source), GOLDEN / f"{name}.yml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert file.read_text() == text


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        (look(), "nvidia"),
        (look(gpus=[]), "none"),
        (look(loaded="595.91.07"), "adopt"),
        (look(library="580.159.04"), "adopt"),
        (look(packages={"nvidia-driver-cuda": package("580.159.04-1")}), "adopt"),
        (look(packages={"nvidia-container-toolkit": package("1.18.1-1")}), "nvidia"),
        (look(managed="nvidia", loaded="580.159.04", packages={"libcuda1": package("580.159.04-1")}), "nvidia"),
        (look(managed="distro", gpus=[]), "distro"),
        (look("ubuntu", "24.04", secure_boot=True), "distro"),
        (look("ubuntu", "24.04"), "nvidia"),
    ],
)
def test_source_that_is_chosen(facts: dict[str, Any], source: str) -> None:
    assert plan.choose_source(Settings(), facts)[0] == source


OTHER = {"libcuda1": package("575.57.08-1", held=True), "nvidia-kernel-open-dkms": package("575.57.08-1")}


@pytest.mark.parametrize(
    ("settings", "facts", "sentence"),
    [
        (
            Settings(source="yum"),
            look(),
            'nvidia_driver_source is "yum", which there is not: use auto, nvidia, distro, adopt or none.',
        ),
        (
            Settings(branch="575"),
            look(),
            'nvidia_driver_branch is "575", but vLLM\'s build cuda needs 580 or newer: set it to "580".',
        ),
        (Settings(branch="58"), look(), 'nvidia_driver_branch is "58", which is no branch'),
        (
            Settings(version="590.48.01"),
            look(),
            'nvidia_driver_version is "590.48.01", which is no version of branch 580',
        ),
        (Settings(key_fingerprint="8793F200"), look(), "which is no fingerprint of an OpenPGP key: give all 40"),
        (Settings(source="adopt"), look(), "but the host has no NVIDIA driver"),
        (
            Settings(source="adopt"),
            look(loaded="570.86.15"),
            "the driver found is 570.86.15, and vLLM's build cuda needs 580",
        ),
        (
            Settings(source="distro"),
            look(),
            "but the archive of this Debian has branch 535, not 580: set nvidia_driver_source to nvidia",
        ),
        (Settings(source="distro"), look("rocky", "9.6"), "but Enterprise Linux has no driver of its own"),
        (Settings(), look("fedora", "43"), "the distribution is fedora 43, which is not supported"),
        (Settings(flavour="proprietary"), look(gpus=[{"address": "0", "device": B200}]), "have open modules alone"),
        (Settings(flavour="open"), look(gpus=[{"address": "0", "device": V100}]), "have proprietary modules alone"),
        (Settings(branch="620", flavour="proprietary"), look(), "but from branch 616 on there are open modules alone"),
        (Settings(source="nvidia"), look(secure_boot=True), "Secure Boot is on, and the kernel would refuse"),
        (
            Settings(source="nvidia"),
            look("ubuntu", "24.04", secure_boot=True),
            "set nvidia_driver_source to distro, whose modules are signed",
        ),
        (
            Settings(source="nvidia"),
            look(packages=OTHER),
            "the host has libcuda1 575.57.08-1 and 1 more, where nvidia_driver_branch is 580, and libcuda1 is held:"
            " run the playbook inferops.vllm.driver_upgrade",
        ),
        (Settings(source="nvidia"), look(runfile=True), "remove it by nvidia-uninstall"),
        (Settings(source="nvidia"), look(loaded="580.159.04"), "which none of its packages has brought"),
    ],
)
def test_refused(settings: Settings, facts: dict[str, Any], sentence: str) -> None:
    [problem] = plan.check(settings, facts)
    assert sentence in problem


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        (Settings(variant="cpu", branch="570"), look()),
        (Settings(source="none"), look("fedora", "43")),
        (Settings(source="nvidia", secure_boot="enrolled"), look(secure_boot=True)),
        (Settings(source="nvidia", upgrade=True), look(packages=OTHER)),
        (Settings(source="nvidia"), look(packages={"nvidia-settings": package("575.57.08-1")})),
    ],
)
def test_allowed(settings: Settings, facts: dict[str, Any]) -> None:
    assert plan.check(settings, facts) == []


def test_flavour_follows_the_oldest_gpu() -> None:
    old = look(gpus=[{"address": "0", "device": H100}, {"address": "1", "device": V100}])
    assert plan.choose_flavour(Settings(), old) == "proprietary"
    assert plan.choose_flavour(Settings(), look()) == "open"


def transaction(**changes: Any) -> dict[str, Any]:
    return {"install": {}, "remove": [], "unknown": [], "offered": {}, "error": "", **changes}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (transaction(install={"libcuda1": "580.159.04-1", "nvidia-container-toolkit": "1.18.1-1"}), None),
        (transaction(install={"libcuda1": "590.48.01-1"}), "apt would install libcuda1 590.48.01-1, where"),
        (
            transaction(install={"libcuda1": "580.159.04-1", "nvidia-fabricmanager": "580.159.03-1"}),
            "parts of the driver are of several versions (nvidia-fabricmanager 580.159.03 and libcuda1 580.159.04):",
        ),
        (transaction(unknown=["linux-headers-6.1.0-9-amd64"]), "no repository offers linux-headers-6.1.0-9-amd64"),
        (transaction(unknown=["nvidia-open"], offered={"nvidia-open": ["590.48.01-1"]}), "(it offers 590.48.01)"),
        (transaction(unknown=["nvidia-open"]), "(it has no such package)"),
        (transaction(error="Unmet dependencies."), "apt cannot install the driver (Unmet dependencies.)"),
        (
            transaction(install={"linux-image-6.12.0-1-amd64": "6.12"}),
            "would install the kernel linux-image-6.12.0-1-amd64",
        ),
    ],
)
def test_transaction(found: dict[str, Any], sentence: str | None) -> None:
    problems = plan.check_transaction(Settings(), "nvidia", found)
    assert bool(problems) == bool(sentence)
    assert not sentence or sentence in problems[0]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("nvidia-driver-cuda", True),
        ("libnvidia-compute-580", True),
        ("kmod-nvidia-open-dkms", True),
        ("libnvidia-container1", False),
        ("nvidia-container-toolkit-base", False),
        ("nvidia-driver-pinning-580", False),
        ("nvidia-kernel-common", False),
        ("nvidia-kernel-common-580", True),
        ("nvidia-cuda-toolkit", False),
        ("nvidia-support", False),
        ("linux-modules-nvidia-580-server-open-generic", False),
    ],
)
def test_parts_of_the_driver(name: str, is_one: bool) -> None:
    assert names.is_part(name) == is_one


def test_archive_of_debian_has_parts_with_versions_of_their_own() -> None:
    parts = {"libcuda1": "550.163.01-2", "nvidia-modprobe": "570.133.07-1"}
    assert list(plan.mixed(parts, "distro")) == []
    assert list(plan.mixed(parts, "nvidia")) != []
