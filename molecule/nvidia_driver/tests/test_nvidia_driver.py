# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role against repositories of empty packages with the real names. Each test begins where `begin` says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import testinfra

SCENARIO = Path(__file__).parents[1]
REPO = SCENARIO.parents[1]
NAMES = ("debian12", "debian13")
OLD, NEW, NEXT = "580.159.03-1", "580.159.04-1", "590.48.01-1"
PARTS = (
    *("firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
    *("nvidia-kernel-support", "nvidia-modprobe", "nvidia-persistenced"),
)
NEWEST = "99.9.9-amd64"
MARKER = "/run/inferops/nvidia-driver-reboot"
SECURE_BOOT = "efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NOT_TAKEN = r"nvidia_driver_repository_url is .file:///srv/nvidia/{}., but apt does not take it \("
POOL = "/srv/nvidia/good/pool"
ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
    "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".ansible/collections"),
    "MOLECULE_SCENARIO_NAME": SCENARIO.name,
}
DRAINED = "/var/lib/vllm/drain/tiny"
INSTANCE = {"name": "tiny", "port": 8000, "served_model_name": "tiny", "user": "nobody", "root": "/opt/vllm"}
WRITTEN = (
    "/var/lib/inferops/nvidia_driver.json",
    "/etc/apt/preferences.d/inferops-nvidia.pref",
    "/etc/apt/apt.conf.d/52inferops-nvidia",
    "/etc/modprobe.d/inferops-nouveau.conf",
)


class Run:
    """What a playbook has said, and how it ended on each host."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.output = " ".join(done.stdout.split()).replace("\\n", " ")
        recap = re.findall(r"(debian1[23]) : ok=\d+ changed=(\d+) unreachable=0 failed=(\d)", self.output)
        self.changed = {name: int(changed) for name, changed, _failed in recap}
        self.failed = {name for name, _changed, failed in recap if failed != "0"}

    def refused(self, sentence: str, names: tuple[str, ...] = NAMES) -> bool:
        """Whether it ended with this sentence on just these hosts."""
        told = all(re.search(rf"{name}: {sentence}", self.output) for name in names)
        return told and self.failed == set(names)


def converge(*options: str, **variables: Any) -> Run:
    """Apply the role to all hosts with other variables."""
    return play(SCENARIO / "converge.yml", *options, **variables)


def play(playbook: Path, *options: str, **variables: Any) -> Run:
    return Run(
        subprocess.run(
            [
                *(
                    "ansible-playbook",
                    "-i",
                    str(SCENARIO.parent / "shared/inventory"),
                    "-i",
                    str(SCENARIO / "inventory/nodes.yml"),
                ),
                *(str(playbook), "-e", json.dumps(variables), *options),
            ],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
    )


@pytest.fixture(scope="module")
def hosts() -> dict[str, Any]:
    return {name: testinfra.get_host(f"docker://inferops-nvidia_driver-{name}") for name in NAMES}


def on_all(hosts: dict[str, Any], command: str) -> None:
    for host in hosts.values():
        host.check_output(command)


@pytest.fixture
def bare(hosts: dict[str, Any]) -> dict[str, Any]:
    """Hosts that the role has never seen."""
    on_all(hosts, "sh /srv/doubles/reset.sh")
    return hosts


@contextmanager
def mounted(hosts: dict[str, Any], folder: str, command: str) -> Iterator[None]:
    """Another folder of the kernel's own in the place of one."""
    on_all(hosts, f"mount -t tmpfs tmpfs {folder} && cd {folder} && {command}")
    try:
        yield
    finally:
        on_all(hosts, f"umount {folder}")


def installed(host: Any) -> dict[str, str]:
    """Versions of the driver's packages, with what each is held as."""
    lines = host.check_output(
        "dpkg-query --show --showformat '${Package} ${Version} ${db:Status-Abbrev}\\n'"
    ).splitlines()
    words = [line.split() for line in lines]
    return {name: f"{version} {status}" for name, version, status in words if name in PARTS or "fabric" in name}


def all_of(version: str, status: str = "hi") -> dict[str, str]:
    return dict.fromkeys(PARTS, f"{version} {status}")


# What molecule's own converge has left, before anything else happens to it.


def test_exactly_the_pinned_branch_is_installed_and_held(hosts: dict[str, Any]) -> None:
    """590 is on offer, and every dependency would take it; so is 580.200 of the distribution itself."""
    for host in hosts.values():
        assert installed(host) == all_of(NEW)
        for release in (host.check_output("uname -r"), NEWEST):
            assert host.file(f"/lib/modules/{release}/updates/dkms/nvidia.ko").content_string.strip() == NEW[:-2]
            assert host.package(f"linux-headers-{release}").is_installed
        assert host.package("linux-headers-amd64").is_installed


def test_without_the_pin_another_branch_would_come(hosts: dict[str, Any]) -> None:
    """The trap is a real one: without this the test above would prove nothing."""
    for host in hosts.values():
        ask = "apt-get --simulate -o Dir::State::status=/dev/null install cuda-drivers-580 2>/dev/null"
        assert f"Inst nvidia-driver-cuda ({NEW}" in host.check_output(ask)
        assert f"Inst nvidia-driver-cuda ({NEXT}" in host.check_output(
            f"{ask} -o Dir::Etc::PreferencesParts=/nonexistent"
        )


def test_daemon_keeps_persistence_and_nouveau_is_out(hosts: dict[str, Any]) -> None:
    for host in hosts.values():
        daemon = host.service("nvidia-persistenced")
        assert daemon.is_running
        assert daemon.is_enabled
        assert " --persistence-mode" in host.check_output("systemctl show -P ExecStart nvidia-persistenced")
        assert "blacklist nouveau" in host.file("/etc/modprobe.d/inferops-nouveau.conf").content_string
        image, file = (
            host.file(path) for path in (f"/boot/initrd.img-{NEWEST}", "/etc/modprobe.d/inferops-nouveau.conf")
        )
        assert image.mtime >= file.mtime
        assert not host.file(MARKER).exists


def test_unattended_upgrades_leave_the_driver_alone(hosts: dict[str, Any]) -> None:
    """By their own list, with neither pin nor hold to help it, and this repository among those to upgrade from."""
    own_list, names = "/etc/apt/apt.conf.d/52inferops-nvidia", " ".join(PARTS)
    # Of this repository alone: it would take a minute to look at all packages of Debian.
    settings = """
      Unattended-Upgrade::Origins-Pattern { "origin=NVIDIA"; };
      Dir::Etc::SourceList "/etc/apt/sources.list.d/inferops-nvidia.sources";
      Dir::Etc::SourceParts "/nonexistent";
    """
    attempt = "unattended-upgrade --dry-run --debug 2>&1"
    taken = r"Packages that will be upgraded: .*nvidia-driver-cuda"
    for host in hosts.values():
        host.check_output(f"apt-mark unhold {names} && mv /etc/apt/preferences.d/inferops-nvidia.pref /srv/")
        host.check_output(f"cat >/etc/apt/apt.conf.d/99-fault <<'END'\n{settings}\nEND")
        try:
            assert not re.search(taken, host.check_output(attempt))
            host.check_output(f"mv {own_list} /srv/")
            assert re.search(taken, host.check_output(attempt)), "without the list it takes them"
        finally:
            host.check_output(
                "rm -f /etc/apt/apt.conf.d/99-fault; mv /srv/inferops-nvidia.pref /etc/apt/preferences.d/"
                f"; [ ! -e /srv/52inferops-nvidia ] || mv /srv/52inferops-nvidia {own_list}; apt-mark hold {names}"
            )


def test_packages_of_two_sources_are_told_of(hosts: dict[str, Any]) -> None:
    """One of the distribution's own, put there by hand past pin and hold."""
    on_all(hosts, "dpkg --install --force-all /srv/nvidia/debian/pool/libcuda1_580.200.00-1.deb")
    try:
        done = converge()
        assert done.refused(
            r"parts of the driver are of several versions \(.* 580\.159\.04 and libcuda1 580\.200\.00\):"
        )
        assert "inferops.vllm.driver_upgrade" in done.output
    finally:
        on_all(hosts, f"dpkg --install --force-all /srv/nvidia/good/pool/libcuda1_{NEW}.deb && apt-mark hold libcuda1")


def test_nouveau_that_is_loaded_asks_for_a_reboot_which_the_gate_refuses(hosts: dict[str, Any]) -> None:
    with mounted(hosts, "/sys/module", "mkdir nouveau"):
        done = converge(nvidia_driver_reboot=True)
        assert done.refused("nvidia_driver_reboot is true, but the play takes 2 hosts at once: write serial: 1")
    for host in hosts.values():
        assert "nouveau is loaded" in host.file(MARKER).content_string


def test_library_and_module_out_of_step_ask_for_a_reboot(hosts: dict[str, Any]) -> None:
    with mounted(hosts, "/sys/module", "mkdir nvidia && echo 575.57.08 >nvidia/version"):
        done = converge()
    assert not done.failed
    reason = "driver 575.57.08 is loaded, and 580.159.04 is installed"
    for name, host in hosts.items():
        assert re.search(rf"{name} waits for a reboot \({reason}\).*driver_upgrade --limit {name}", done.output)
        assert reason in host.file(MARKER).content_string


# What is wrong, what gpu_health says of it, and how the host came to be so. Of a key it says nothing.
BROKEN = {
    "half_installed": (
        "libcuda1 is installed in part",
        f"dpkg --unpack {POOL}/libcuda1_{NEW}.deb && apt-mark hold libcuda1",
    ),
    "module_missing": (f"the kernel {NEWEST} is installed without", f"rm -r /lib/modules/{NEWEST}/updates"),
    "kernel_too_new": (f"the kernel {NEWEST} is installed without", f"rm -r /lib/modules/{NEWEST}/updates"),
    "mixed_versions": (
        "parts of the driver are of several versions",
        f"dpkg --install --force-all {POOL}/libcuda1_{NEXT}.deb && apt-mark hold libcuda1",
    ),
    "key": ("", "cp /srv/nvidia/expired/3bf863cc.pub /etc/apt/keyrings/inferops-nvidia.asc"),
}
BLOCK = re.compile(r"<!-- recover: (\w+) -->\n```sh\n(.*?)```", re.DOTALL)
COMMANDS = {name: text.splitlines() for name, text in BLOCK.findall((REPO / "docs/DRIVERS.md").read_text())}


@pytest.fixture
def controllers(hosts: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    """For each host a folder with an inventory in which it is gpu3, as in the page."""
    folders = {}
    for name, host in hosts.items():
        signers = json.loads(host.file("/srv/nvidia/fingerprints.json").content_string)
        gpu3 = {
            "ansible_connection": "community.docker.docker",
            "ansible_host": f"inferops-nvidia_driver-{name}",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,  # root already, without sudo
            "nvidia_driver_source": "nvidia",
            "nvidia_driver_repository_url": "file:///srv/nvidia/good",
            "nvidia_driver_key_fingerprint": signers["good"],
        }
        folders[name] = tmp_path / name
        (folders[name] / "inventory").mkdir(parents=True)
        inventory = {"vllm_nodes": {"hosts": {"gpu3": gpu3}}}
        (folders[name] / "inventory/hosts.yml").write_text(json.dumps(inventory))
    return folders


def told(controllers: dict[str, Path], command: str) -> dict[str, tuple[int, str]]:
    """How a command of the controller ends for each host, and what it says; for all of them at once."""
    started = {
        name: subprocess.Popen(
            shlex.split(command),
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, folder in controllers.items()
    }
    said = {name: process.communicate()[0] for name, process in started.items()}
    return {name: (process.returncode, said[name]) for name, process in started.items()}


def wrong(hosts: dict[str, Any], controllers: dict[str, Path], sentence: str) -> set[str]:
    """Hosts with which something is wrong."""
    if not sentence:
        lists = "rm -f /var/lib/apt/lists/_srv_nvidia_good*; apt-get update"
        return {name for name, host in hosts.items() if host.run(lists).rc}
    looked = told(controllers, "ansible vllm_nodes -i inventory -m inferops.vllm.gpu_health")
    return {name for name, (_status, text) in looked.items() if sentence in " ".join(text.split())}


def test_every_command_of_the_page_is_run() -> None:
    assert set(COMMANDS) == set(BROKEN)


@pytest.mark.parametrize("state", BROKEN)
def test_commands_of_the_page_mend_it(hosts: dict[str, Any], controllers: dict[str, Path], state: str) -> None:
    sentence, fault = BROKEN[state]
    on_all(hosts, fault)
    assert wrong(hosts, controllers, sentence) == set(NAMES)
    for command in COMMANDS[state]:
        if command.startswith("ansible"):
            for status, text in told(controllers, command).values():
                assert status == 0, text
        else:
            on_all(hosts, command.replace("KERNEL", NEWEST))
    assert wrong(hosts, controllers, sentence) == set()
    assert [installed(host) for host in hosts.values()] == [all_of(NEW)] * 2
    on_all(hosts, f"apt-get install --yes linux-image-amd64 linux-headers-amd64 && dkms autoinstall -k {NEWEST}")


def test_another_branch_is_refused_by_the_role(hosts: dict[str, Any]) -> None:
    """What is there, held, is in the way."""
    before = [installed(host) for host in hosts.values()]
    refused = converge(nvidia_driver_branch="590")
    assert refused.refused(
        r"the host has firmware-nvidia-gsp 580.159.04-1 and 7 more, where nvidia_driver_branch is 590, and .* are held:"
    )
    assert [installed(host) for host in hosts.values()] == before


def test_upgrade_goes_node_after_node_and_ends_at_the_first_that_does_not_come_back(hosts: dict[str, Any]) -> None:
    """Up to another branch and back, which is a downgrade; a server that does not run has nothing in flight."""
    on_all(hosts, f"mkdir -p /etc/vllm/instances && echo '{json.dumps(INSTANCE)}' >/etc/vllm/instances/tiny.json")
    files = {name: host.file("/srv/nvidia/fingerprints.json").content_string for name, host in hosts.items()}
    settings = {
        "ansible_become": False,  # root already, without sudo
        "nvidia_driver_source": "nvidia",
        "nvidia_driver_repository_url": "file:///srv/nvidia/good",
        "nvidia_driver_key_fingerprint": "{{ node_signers[inventory_hostname] }}",
        "node_signers": {name: json.loads(text)["good"] for name, text in files.items()},
    }
    done = play(REPO / "playbooks/driver_upgrade.yml", nvidia_driver_branch="590", **settings)
    assert not done.failed, done.output
    assert [installed(host) for host in hosts.values()] == [all_of(NEXT)] * 2
    assert not any(host.file(DRAINED).exists for host in hosts.values())
    assert not any(host.file(MARKER).exists for host in hosts.values()), "what was waited for is not so any more"

    hosts["debian12"].check_output(f"echo {NEWEST} >/srv/doubles/broken-kernels")
    failed = play(REPO / "playbooks/driver_upgrade.yml", nvidia_driver_version=OLD[:-2], **settings)
    assert failed.refused(f"the kernel {NEWEST} is installed without the NVIDIA module", ("debian12",))
    assert hosts["debian12"].file(DRAINED).exists
    assert installed(hosts["debian12"]) == all_of(OLD)
    assert installed(hosts["debian13"]) == all_of(NEXT)
    assert not hosts["debian13"].file(DRAINED).exists


# On hosts that the role has never seen.


def test_check_mode_on_an_untouched_host_tells_and_changes_nothing(bare: dict[str, Any]) -> None:
    done = converge("--check", "--diff")
    assert not done.failed, done.output
    assert "apt would install" in done.output
    for host in bare.values():
        assert not installed(host)
        assert not any(host.file(path).exists for path in (*WRITTEN, "/etc/apt/sources.list.d/inferops-nvidia.sources"))


def test_key_that_has_expired(bare: dict[str, Any]) -> None:
    done = converge(case_repository="expired")
    assert done.refused(rf"{NOT_TAKEN.format('expired')}.*(EXPKEYSIG|[Ee]xpired)")
    assert not any(installed(host) for host in bare.values())


def test_key_bound_by_sha1(bare: dict[str, Any]) -> None:
    """Debian 12 takes it to this day."""
    done = converge("--limit", "debian13", case_repository="sha1")
    assert done.refused(rf"{NOT_TAKEN.format('sha1')}.*SHA1 is not considered secure", ("debian13",))
    assert not installed(bare["debian13"])


def test_key_of_somebody_else_is_not_taken(bare: dict[str, Any]) -> None:
    """The file at hand has signed the repository, but is not the key that the inventory knows."""
    done = converge(nvidia_driver_key_fingerprint="A" * 40)
    assert done.refused(NOT_TAKEN.format("good"))
    assert not any(installed(host) for host in bare.values())


def test_headers_gone_from_the_mirror(bare: dict[str, Any]) -> None:
    on_all(bare, "cd /etc/apt/sources.list.d && rm kernel.sources && cp /srv/nvidia/moved.sources .")
    running = re.escape(bare["debian12"].check_output("uname -r"))
    done = converge()
    assert done.refused(
        rf"no repository offers linux-headers-{running}, which the driver's module is built with: have a mirror"
    )
    assert not any(installed(host) for host in bare.values())


def test_branch_that_is_not_offered(bare: dict[str, Any]) -> None:
    done = converge(case_repository="short")
    assert done.refused(
        r"nvidia_driver_branch is .580., but no repository has nvidia-driver-cuda and nvidia-kernel-open-dkms of it"
        r" \(it offers 580\.200\.00 and 590\.48\.01\):"
    )
    assert not any(installed(host) for host in bare.values())


def test_fabric_manager_one_patch_off(bare: dict[str, Any]) -> None:
    done = converge(case_repository="fabric", nvidia_driver_fabricmanager=True)
    assert done.refused(
        r"parts of the driver are of several versions \(nvidia-fabricmanager 580\.159\.03 and .* 580\.159\.04\):"
    )
    assert not any(installed(host) for host in bare.values())


def test_module_that_cannot_be_built_for_one_of_two_kernels(bare: dict[str, Any]) -> None:
    on_all(bare, f"echo {NEWEST} >/srv/doubles/broken-kernels")
    done = converge()
    assert done.refused(
        rf"the kernel {NEWEST} is installed without the NVIDIA module, .*: run dkms autoinstall -k {NEWEST}"
    )
    assert not any(host.file(MARKER).exists for host in bare.values())


def test_held_packages_in_the_way(bare: dict[str, Any]) -> None:
    on_all(bare, f"dpkg --install --force-all /srv/nvidia/good/pool/libcuda1_{NEXT}.deb && apt-mark hold libcuda1")
    done = converge()
    assert done.refused("the host has libcuda1 590.48.01-1, where nvidia_driver_branch is 580, and libcuda1 is held:")
    assert "driver_upgrade" in done.output
    assert not any(host.file(path).exists for host in bare.values() for path in WRITTEN)


def test_secure_boot_on(bare: dict[str, Any]) -> None:
    with mounted(bare, "/sys/firmware", f"mkdir -p efi/efivars && printf '\\006\\000\\000\\000\\001' >{SECURE_BOOT}"):
        assert converge().refused(
            "Secure Boot is on, and the kernel would refuse modules that are built on the host: switch it off"
        )
        assert not any(host.file(path).exists for host in bare.values() for path in WRITTEN)


@pytest.mark.usefixtures("bare")
def test_branch_below_what_vllm_needs() -> None:
    assert converge(nvidia_driver_branch="575").refused(
        'nvidia_driver_branch is "575", but vLLM\'s build cuda needs 580 or newer: set it to "580"'.replace('"', ".")
    )


def test_interrupted_between_pin_and_install_then_run_again_without_a_network(bare: dict[str, Any]) -> None:
    """The second run has a mirror alone, whose key comes from the controller."""
    on_all(bare, """echo 'DPkg::Pre-Install-Pkgs {"false";};' >/etc/apt/apt.conf.d/99-fault""")
    mirror = {
        "case_repository": "mirror",
        "nvidia_driver_key_file": str(REPO / ".cache/nvidia_driver") + "/{{ inventory_hostname }}.asc",
    }
    assert converge(**mirror).failed == set(NAMES)
    for host in bare.values():
        assert host.file(WRITTEN[1]).exists
        assert not installed(host)
    on_all(bare, "rm /etc/apt/apt.conf.d/99-fault")
    network = ("docker", "network")
    for name in NAMES:
        subprocess.run([*network, "disconnect", "inferops-nvidia_driver", f"inferops-nvidia_driver-{name}"], check=True)
    try:
        done = converge(**mirror)
        assert not done.failed, done.output
        assert [installed(host) for host in bare.values()] == [all_of(NEW)] * 2
    finally:
        for name in NAMES:
            subprocess.run(
                [*network, "connect", "inferops-nvidia_driver", f"inferops-nvidia_driver-{name}"], check=True
            )


def test_driver_of_an_image_is_adopted_untouched(bare: dict[str, Any]) -> None:
    """As a cloud's image has it: installed by other hands, neither pinned nor held."""
    pool = "/srv/nvidia/good/pool"
    first = f"/srv/nvidia/kernel/pool/linux-headers-*.deb {pool}/dkms_*.deb"
    parts = " ".join(f"{pool}/{part}_{NEW}.deb" for part in PARTS)
    on_all(bare, f"dpkg --install --force-all {first} && dpkg --install {parts}")
    look = (
        "dpkg --list; apt-mark showhold; find /etc /lib/modules /var/lib/inferops -type f -printf '%p %t\n' 2>/dev/null"
    )
    before = [host.run(look).stdout for host in bare.values()]
    done = converge(nvidia_driver_source="auto")
    assert not done.failed, done.output
    assert set(done.changed.values()) == {0}
    assert "adopt: the host came with a driver" in done.output
    assert [host.run(look).stdout for host in bare.values()] == before
    assert not any(host.file(path).exists for host in bare.values() for path in WRITTEN)
