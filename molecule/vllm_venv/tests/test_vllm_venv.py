import json

VENV = "/opt/vllm/venvs/0.33.0"


def test_current_leads_to_the_release(host):
    assert host.file("/opt/vllm/current").is_symlink
    assert host.file("/opt/vllm/current").linked_to == VENV
    assert host.check_output(f"{VENV}/bin/python -c 'import vllm; print(vllm.__version__)'") == "0.33.0"


def test_marker_names_what_was_installed(host):
    marker = json.loads(host.file(f"{VENV}/.inferops.json").content_string)
    assert marker["version"] == "0.33.0"
    assert marker["variant"] == "cuda"


def test_bytecode_is_compiled(host):
    assert int(host.check_output(f"find {VENV}/lib -path '*/vllm/*' -name '*.pyc' | wc -l")) > 0


def test_environment_belongs_to_root(host):
    assert host.file(VENV).user == "root"
    # uv leaves its lock file open to all; nothing reads it.
    assert not host.check_output(f"find {VENV} -not -name .lock -not -type l -perm /022 -o -not -user root")


def test_service_user_cannot_log_in(host):
    user = host.user("vllm")
    assert user.shell == "/usr/sbin/nologin"
    assert user.home == "/var/cache/vllm"
