"""The role looks, and leaves the host as bare as it was."""

import pytest


@pytest.mark.parametrize("path", ["/opt/vllm", "/etc/vllm", "/var/lib/vllm", "/root/.ansible"])
def test_nothing_is_created(host, path):
    assert not host.file(path).exists


def test_no_user_is_created(host):
    assert not host.user("vllm").exists
