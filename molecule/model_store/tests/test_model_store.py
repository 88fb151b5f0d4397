import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
CACHE = REPO / ".cache/molecule/model_store"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = "/var/lib/vllm/models"
HUB_PATH = f"{ROOT}/inferops--tiny/{COMMIT}"


@pytest.fixture
def store(host):
    """Run the module on this host from here, as a user does; returns its result."""
    inventory_name = host.backend.name.rsplit("-", 1)[1]
    environment = {**os.environ, "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}

    def start(instance, *arguments):
        options = {
            "models": [{"name": "test", **instance}],
            "python": "/opt/client/bin/python",
            "endpoint": "http://127.0.0.1:8900",
        }
        command = ["ansible", "-i", "molecule/shared/inventory", inventory_name, "-m", "inferops.vllm.model"]
        return subprocess.Popen(
            [*command, "-a", json.dumps(options), *arguments],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(instance, *arguments):
        output, _errors = start(instance, *arguments).communicate(timeout=180)
        return json.loads(output)["plays"][0]["tasks"][0]["hosts"][inventory_name]

    run.start = start
    return run


@pytest.fixture
def hub(host):
    """Script the hub's faults; afterwards there are none."""

    def control(**faults):
        body = f", data={json.dumps(faults).encode()!r}" if faults else ""
        program = f"import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:8900/control'{body})).read().decode())"
        return host.check_output("python3 -c %s", program)

    def script(**faults):
        control(token="hf_right", **faults)

    script.seen = lambda: json.loads(control())["requests"]
    yield script
    script()


@pytest.fixture
def house(host, tmp_path):
    """A directory here that becomes a model of its name there."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    yield folder
    host.check_output(f"rm -rf {ROOT}/house")


@pytest.fixture
def large(host):
    """A model of the hub whose download takes its time; returns where it will be."""
    folder, home = f"/srv/hub/inferops/large/{COMMIT}", f"{ROOT}/inferops--large"
    host.check_output(f"mkdir -p {folder} && truncate --size 40M {folder}/model.bin")
    yield home
    host.check_output(f"rm -r {folder} {home}")


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def names_in(host, path):
    return sorted(host.check_output(f"ls -A {path}").splitlines())


def kill_tree(pid):
    """A process and its children: Ansible's workers are no members of its process group."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    os.kill(pid, signal.SIGKILL)
    for child in children.stdout.split():
        kill_tree(int(child))


def directory_path():
    manifest = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in sorted((CACHE / "tiny").iterdir())
    )
    return f"{ROOT}/tiny/{hashlib.sha256(manifest.encode()).hexdigest()[:12]}"


@pytest.mark.parametrize("path", [directory_path(), HUB_PATH], ids=["directory", "hub"])
def test_contents(host, path):
    names = [file.name for file in (CACHE / "tiny").iterdir()]
    assert names_in(host, path) == sorted([*names, ".inferops.json"])
    for name in names:
        assert host.file(f"{path}/{name}").content == (CACHE / "tiny" / name).read_bytes()
    marker = json.loads(host.file(f"{path}/.inferops.json").content_string)
    assert [file["path"] for file in marker["files"]] == sorted(names)


@pytest.mark.parametrize("path", [directory_path(), HUB_PATH], ids=["directory", "hub"])
def test_everybody_reads_and_root_alone_writes(host, path):
    assert host.check_output(f"find {ROOT} -type d -printf '%u:%g %m\\n' | sort -u") == "root:root 755"
    assert host.check_output(f"find {path} -type f -printf '%u:%g %m\\n' | sort -u") == "root:root 644"


def test_nothing_but_models_is_left(host):
    assert names_in(host, ROOT) == ["inferops--tiny", "tiny"]
    assert names_in(host, f"{ROOT}/tiny") == [".lock", directory_path().rsplit("/", 1)[1]]
    assert host.file("/root/.cache").exists is False


def test_the_same_weights_are_stored_once(host):
    assert host.check_output(f"stat -c %h {HUB_PATH}/model.safetensors") == "2"


def test_damage_is_mended(host, store):
    host.check_output(f"truncate --size 5 {HUB_PATH}/config.json")
    result = store({"model": "inferops/tiny", "revision": COMMIT})
    assert (result["models"][0]["state"], result["models"][0]["fetch_files"]) == ("damaged", 4)
    assert host.file(f"{HUB_PATH}/config.json").content == (CACHE / "tiny" / "config.json").read_bytes()


def test_a_killed_download_goes_on_where_it_ended(host, store, hub, large):
    part = f"{large}/.{COMMIT}.partial/parts/model.bin"
    hub(cut={"model.bin": 1000})
    process = store.start({"model": "inferops/large", "revision": COMMIT})
    wait_until(lambda: int(host.run(f"stat -c %s {part}").stdout or 0) >= 10 << 20)
    host.check_output("pkill -9 -f 'python -I .*/[h]ub.py'")
    output, _errors = process.communicate(timeout=60)
    assert "the download of inferops/large ended with status -9" in output
    assert not host.file(f"{large}/{COMMIT}").exists
    have = host.file(part).size

    hub()
    assert store({"model": "inferops/large", "revision": COMMIT})["changed"] is True
    assert host.file(f"{large}/{COMMIT}/model.bin").size == 40 << 20
    fetched = [request for request in hub.seen() if (request["method"], request["path"][:9]) == ("GET", "/storage/")]
    assert [request["range"] for request in fetched] == [f"bytes={have}-"]


def test_a_killed_transfer_goes_on_where_it_ended(host, store, house):
    for number in range(39):
        (house / f"part-{number}.txt").write_text(str(number))
    process = store.start({"model": str(house)})
    wait_until(lambda: host.run(f"grep -q part-.*txt {ROOT}/house/.*.partial/journal.json").rc == 0)
    kill_tree(process.pid)
    process.communicate()
    time.sleep(1)  # What was at work on the host ends on its own.
    assert all(name.startswith(".") for name in names_in(host, f"{ROOT}/house"))

    result = store({"model": str(house)})["models"][0]
    assert (result["files"], result["fetch_files"]) == (40, 8)
    assert len(names_in(host, result["path"])) == 41


def test_an_altered_file_is_refused(host, store, hub, large):
    hub(altered=["model.bin"])
    result = store({"model": "inferops/large", "revision": COMMIT})
    assert result["failed"] is True
    assert ": model.bin arrived with SHA-256 " in result["msg"]
    assert "nothing was stored" in result["msg"]
    assert not host.file(f"{large}/{COMMIT}").exists
    assert not host.file(f"{large}/.{COMMIT}.partial/parts/model.bin").exists


def test_a_truncated_file_of_a_directory_is_refused(host, store, house):
    (house / "model.safetensors").write_bytes((CACHE / "tiny" / "model.safetensors").read_bytes()[:-1])
    result = store({"model": str(house)})
    assert "model.safetensors is no complete safetensors file" in result["msg"]
    assert not host.file(f"{ROOT}/house").exists


def test_an_operator_who_is_not_root(host, store, house):
    result = store({"model": str(house)}, "--become", "--user", "operator")
    assert result["changed"] is True, result
    assert host.file(f"{result['models'][0]['path']}/config.json").user == "root"
