# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List and download the files of a model on a hub.

Run by the Python of vLLM's environment, which has huggingface_hub: reads a job as JSON from standard input and writes
the result, or an error in one sentence, as JSON to standard output. The token comes in the environment.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Callable, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

PUBLIC = "https://huggingface.co"
WORKERS = 8
ATTEMPTS = 4
TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
# The same weights once more, for other frameworks.
DUPLICATES = (
    "*.bin",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "*.ot",
    "*.pt",
    "*.pth",
    "*.tflite",
)


def selected(paths: Iterable[str]) -> list[str]:
    """What vLLM may read: no hidden files, and where there are safetensors no copies of them in other formats."""
    visible = [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
    if not any("/" not in path and path.endswith(".safetensors") for path in visible):
        return visible
    return [
        path
        for path in visible
        if not path.startswith("original/") and not any(fnmatch.fnmatchcase(path, pattern) for pattern in DUPLICATES)
    ]


def files(job: dict[str, Any]) -> dict[str, Any]:
    """Paths, sizes and checksums of the files wanted: a SHA-256 for large files, Git's blob id for the others."""
    from huggingface_hub import HfApi

    info = patiently(
        lambda: HfApi().model_info(
            job["model"], revision=job["revision"], files_metadata=True, token=token(), timeout=30
        )
    )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    return {"files": [described(siblings[path]) for path in selected(siblings)]}


def described(sibling: Any) -> dict[str, Any]:
    checksum = {"sha256": sibling.lfs["sha256"]} if sibling.lfs else {"blob": sibling.blob_id}
    if sibling.size is None or None in checksum.values():
        raise LookupError(f"the hub tells no size or checksum of {sibling.rfilename}")
    return {"path": sibling.rfilename, "size": sibling.size, **checksum}


def download(job: dict[str, Any]) -> dict[str, Any]:
    """Fetch files into job['parts'], several at a time; what is there of them already is completed."""
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        # Large files first, so that no worker is left alone with one in the end.
        pending = [pool.submit(fetch, job, file) for file in sorted(job["files"], key=lambda file: -int(file["size"]))]
        done, _running = wait(pending, return_when=FIRST_EXCEPTION)
        for future in done:
            if error := future.exception():
                # Those still running would go on for minutes; what they have so far is kept on disk.
                finish({"error": sentence(error, job)})
    return {}


def fetch(job: dict[str, Any], file: dict[str, Any]) -> None:
    part = os.path.join(job["parts"], file["path"])
    os.makedirs(os.path.dirname(part), exist_ok=True)
    patiently(lambda: fetch_once(job, file, part))


def fetch_once(job: dict[str, Any], file: dict[str, Any], part: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have > file["size"]:
        os.unlink(part)
        have = 0
    if have == file["size"] and os.path.exists(part):
        return
    url = hf_hub_url(job["model"], file["path"], revision=job["revision"])
    metadata = get_hf_file_metadata(url, token=token())
    if have == 0 and getattr(metadata, "xet_file_data", None) is not None and xet_usable():
        hf_hub_download(job["model"], file["path"], revision=job["revision"], token=token(), local_dir=job["parts"])
        return
    headers = build_hf_headers(token=token())
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # A storage server behind the hub is no business of the token's.
    with open(part, "ab") as stream:
        # hf_hub_download would start over: it keeps nothing of an interrupted download.
        http_get(metadata.location, stream, resume_size=have, headers=headers, expected_size=file["size"])


def xet_usable() -> bool:
    try:
        from huggingface_hub.utils import is_xet_available
    except ImportError:  # Before huggingface_hub 0.30.
        return False
    return bool(is_xet_available())


def token() -> str | bool:
    """False: do without, whatever token this user may have stored."""
    return os.environ.get("HF_TOKEN") or False


def patiently(action: Callable[[], T]) -> T:
    """Try again where the network or the hub had a weak moment."""
    for attempt in range(1, ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if not transient(error):
                raise
            time.sleep(attempt)
    return action()


def status_of(error: BaseException) -> int:
    """The hub's HTTP status, 0 where it gave none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def unreachable(error: BaseException) -> bool:
    if status_of(error):
        return False
    transport = type(error).__module__.split(".")[0] in TRANSPORTS
    return transport or isinstance(error, (ConnectionError, TimeoutError)) or "Consistency check" in str(error)


def transient(error: BaseException) -> bool:
    return unreachable(error) or status_of(error) in (408, 429, 500, 502, 503, 504)


def sentence(error: BaseException, job: dict[str, Any]) -> str:
    """What went wrong, and what to do about it."""
    kind, model, hub = type(error).__name__, job["model"], os.environ.get("HF_ENDPOINT", PUBLIC)
    given = bool(token())
    if kind == "GatedRepoError" and given:
        return f"model {model} is gated and the token may not read it: accept its terms at {hub}/{model} as its owner"
    if kind == "GatedRepoError":
        return (
            f"model {model} is gated and there is no token: accept its terms at {hub}/{model}"
            " and name a file with your token in token_file"
        )
    if kind == "RevisionNotFoundError":
        return f"model {model} has no revision {job['revision']}: take one from {hub}/{model}/commits/main"
    if kind == "RepositoryNotFoundError":
        secret = "the token may not read it" if given else "it is private and there is no token"
        return (
            f"hub {hub} has no model {model}, or {secret}: correct model, or name a file with a fit token in token_file"
        )
    if status_of(error) == 401 and given:
        return f"hub {hub} does not accept the token: put a valid one into token_file"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"the disk filled up while {model} was downloaded: make room, or choose a root on a larger file system"
    if isinstance(error, ImportError):
        return f"{sys.executable} has no huggingface_hub: install vLLM's environment first, or correct python"
    if status_of(error):
        return f"hub {hub} answered {status_of(error)} for model {model}: try again later, or set endpoint to a mirror"
    reason = " ".join(str(error).split()) or kind
    if unreachable(error):
        return (
            f"hub {hub} does not answer this host while it asks for {model} ({reason}):"
            " set endpoint to a mirror within its reach, or model to a directory on the controller"
        )
    return f"model {model} could not be downloaded ({kind}: {reason})"


def finish(result: dict[str, Any]) -> None:
    """Say the result and leave at once, whatever threads still do."""
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    job = json.load(sys.stdin)
    try:
        result = {"files": files, "download": download}[job["do"]](job)
    except Exception as error:
        result = {"error": sentence(error, job)}
    finish(result)


if __name__ == "__main__":
    main()
