# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed apt repositories of empty packages, named and depending on each other as NVIDIA's are: repository.py FOLDER

good: branches 580 and 590, where metapackages ask for no more than a minimum, so that 590 would come without a pin.
mirror: the same, without its key. fabric: with a fabric manager of an earlier patch. short: branch 590 alone.
sha1, expired: good, by such keys. debian: the distribution's own packages of the same names. kernel: two with headers.
moved: the newest of these alone, as a mirror that has gone on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLD, NEW, NEXT = "580.159.03", "580.159.04", "590.48.01"
RUNNING, NEWEST = os.uname().release, "99.9.9-amd64"
KEY_NAMES = ("3bf863cc.pub", "8793F200.pub")
LIBRARIES = f"usr/lib/{os.uname().machine}-linux-gnu"
UNIT = """[Service]
ExecStart=/usr/bin/nvidia-persistenced --user nobody --no-persistence-mode
[Install]
WantedBy=multi-user.target
"""
DAEMON = """#!/bin/sh
exec sleep infinity
"""


def run(*command: str, stdin: str | None = None, folder: Path | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=stdin, cwd=folder).stdout


class Repository:
    """A folder of packages that becomes a repository once it is signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pool").mkdir(parents=True)

    def add(
        self, name: str, version: str, depends: str = "", *, scripts: dict[str, str] | None = None, **files: str
    ) -> None:
        tree = self.folder / "tree"
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "Nobody <nobody@example.com>",
        }
        control.update({"Depends": depends} if depends else {})
        (tree / "DEBIAN").mkdir(parents=True)
        text = "".join(f"{key}: {value}\n" for key, value in {**control, "Description": "a double"}.items())
        (tree / "DEBIAN/control").write_text(text)
        for script, body in (scripts or {}).items():
            (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\nset -e\n{body}\n")
            (tree / "DEBIAN" / script).chmod(0o755)
        for path, content in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            file.chmod(0o755 if "bin/" in path else 0o644)
        run(
            "dpkg-deb",
            "-Znone",
            "--build",
            str(tree),
            str(self.folder / f"pool/{name}_{version.replace(':', '%3a')}.deb"),
        )
        shutil.rmtree(tree)

    def sign(self, key: str, origin: str = "NVIDIA") -> None:
        (self.folder / "Packages").write_text(run("apt-ftparchive", "packages", "pool", folder=self.folder))
        release = run(
            "apt-ftparchive", "-o", f"APT::FTPArchive::Release::Origin={origin}", "release", ".", folder=self.folder
        )
        clear = run("gpg", "--batch", "--local-user", key, "--clearsign", "--output", "-", stdin=release)
        (self.folder / "InRelease").write_text(clear)

    def publish(self, key: str) -> None:
        for name in KEY_NAMES:
            (self.folder / name).write_text(run("gpg", "--armor", "--export", key))


def add_driver(repository: Repository, version: str) -> None:
    deb = f"{version}-1"
    for name in ("libcuda1", "firmware-nvidia-gsp", "nvidia-modprobe", "nvidia-kernel-support"):
        repository.add(name, deb)
    link = f"ln -sf libnvidia-ml.so.{version} /{LIBRARIES}/libnvidia-ml.so.1"
    repository.add("libnvidia-ml1", deb, scripts={"postinst": link}, **{f"{LIBRARIES}/libnvidia-ml.so.{version}": ""})
    daemon = {"lib/systemd/system/nvidia-persistenced.service": UNIT, "usr/bin/nvidia-persistenced": DAEMON}
    repository.add("nvidia-persistenced", deb, **daemon)
    exact = f"libcuda1 (= {deb}), libnvidia-ml1 (= {deb})"
    repository.add("nvidia-driver-cuda", deb, f"{exact}, nvidia-persistenced, nvidia-modprobe (>= {version})")
    for kind in ("open-", ""):
        build = {"postinst": f"/usr/bin/dkms {version}", "prerm": "rm -rf /lib/modules/*/updates"}
        needs = f"dkms, firmware-nvidia-gsp (= {deb}), nvidia-kernel-support (= {deb})"
        repository.add(f"nvidia-kernel-{kind}dkms", deb, needs, scripts=build)
    branch = version.partition(".")[0]
    repository.add(f"cuda-drivers-{branch}", deb, f"nvidia-driver-cuda (>= {branch})")
    repository.add(f"nvidia-driver-pinning-{branch}", f"{branch}-1")


def add_kernels(repository: Repository, *releases: str) -> None:
    for release in releases:
        repository.add(
            f"linux-image-{release}",
            "99-1",
            **{
                f"boot/vmlinuz-{release}": "",
                f"boot/initrd.img-{release}": "",
                f"lib/modules/{release}/modules.dep": "",
            },
        )
        repository.add(f"linux-headers-{release}", "99-1", **{f"lib/modules/{release}/build/Makefile": ""})
    repository.add("linux-image-amd64", "99-1", f"linux-image-{NEWEST}")
    repository.add("linux-headers-amd64", "99-1", f"linux-headers-{NEWEST}")


def make_key(name: str, *options: str, lasts: str = "never") -> str:
    run("gpg", "--batch", "--passphrase", "", *options, "--quick-gen-key", name, "default", "default", lasts)
    lines = run("gpg", "--list-keys", "--with-colons", name).splitlines()
    return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))


def main() -> None:
    base = Path(sys.argv[1])
    os.environ["GNUPGHOME"] = "/root/.gnupg-doubles"
    Path(os.environ["GNUPGHOME"]).mkdir(mode=0o700, exist_ok=True)
    keys = {
        "good": make_key("good"),
        "sha1": make_key("sha1", "--cert-digest-algo", "SHA1"),
        "expired": make_key("expired", "--faked-system-time", "20200101T000000!"),
    }
    signed_with = {
        "good": "good",
        "mirror": "good",
        "fabric": "good",
        "short": "good",
        "sha1": "sha1",
        "expired": "expired",
    }
    for name, key in signed_with.items():
        repository = Repository(base / name)
        for version in (NEXT,) if name == "short" else (OLD, NEW, NEXT):
            add_driver(repository, version)
        repository.add("dkms", "9:3.2.2-1", **{"usr/bin/dkms": Path("/srv/doubles/dkms").read_text()})
        if name == "fabric":
            repository.add("nvidia-fabricmanager", f"{OLD}-1")
        repository.sign(keys[key])
        if key == "expired":
            # Made known to have ended before the signature was made.
            run("gpg", "--batch", "--faked-system-time", "20200601T000000!", "--quick-set-expire", keys[key], "30d")
        # The key of the mirror is on the controller alone.
        repository.publish(keys[key])
        if name == "mirror":
            run("mv", str(repository.folder / KEY_NAMES[0]), "/srv/nvidia/mirror.asc")
            (repository.folder / KEY_NAMES[1]).unlink()
    debian = Repository(base / "debian")
    for name in ("libcuda1", "libnvidia-ml1", "nvidia-persistenced", "nvidia-driver-cuda"):
        debian.add(name, "580.200.00-1")
    debian.sign(keys["good"], origin="Debian")
    debian.publish(keys["good"])
    for name, releases in (("kernel", (RUNNING, NEWEST)), ("moved", (NEWEST,))):
        kernel = Repository(base / name)
        add_kernels(kernel, *releases)
        kernel.sign(keys["good"], origin="Debian")
        kernel.publish(keys["good"])
    for name in ("debian", "kernel", "moved"):
        source = f"Types: deb\nURIs: file://{base}/{name}\nSuites: /\nSigned-By: {base}/{name}/{KEY_NAMES[0]}\n"
        (base / f"{name}.sources").write_text(source)
    (base / "fingerprints.json").write_text(json.dumps({name: keys[key] for name, key in signed_with.items()}))


if __name__ == "__main__":
    main()
