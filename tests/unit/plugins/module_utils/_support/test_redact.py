# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No secret is left in a text, and what helps is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._support import redact

DESCRIPTION = {
    "name": "chat",
    "environment": {
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "CREDENTIAL_OF_CHAT": "planted one",
        "PROXY": "a-name-of-its-own",
        "VLLM_LOGGING_LEVEL": "DEBUG_INFO",
        "HF_HOME": "/var/cache/vllm/huggingface",
        "VLLM_API_KEY": "short-key",
        "OMP_NUM_THREADS": "8",
    },
}
SETTINGS = {
    "agent_port": 9410,
    "hooks": [
        {"events": ["restart"], "url": "https://bob:pass-of-bob@example.com/services/T0P/long-secret?sig=signature1"},
        {"events": ["restart"], "command": ["notify", "--key", "word-of-command"]},
    ],
}
OPTIONS = 'model: "/srv/model"\nmax-num-batched-tokens: 8192\napi-key: ["first key", "second/key"]\n'


def clean(name: str, text: str, *others: tuple[str, str]) -> str:
    secrets = [secret for known in ((name, text), *others) for secret in redact.found_in(*known)]
    return redact.Redactor(secrets).clean(name, text)


def test_description() -> None:
    found = json.loads(clean("a.json", json.dumps(DESCRIPTION)))
    assert found == {
        "name": "chat",
        "environment": {
            "HF_TOKEN": redact.MASK,
            "CREDENTIAL_OF_CHAT": redact.MASK,
            "PROXY": redact.MASK,
            "VLLM_LOGGING_LEVEL": "DEBUG_INFO",
            "HF_HOME": "/var/cache/vllm/huggingface",
            "VLLM_API_KEY": redact.MASK,
            "OMP_NUM_THREADS": "8",
        },
    }


def test_settings() -> None:
    found = json.loads(clean("settings.json", json.dumps(SETTINGS)))
    assert found["agent_port"] == 9410
    assert [hook.get("url", hook.get("command")) for hook in found["hooks"]] == [redact.MASK] * 2


def test_options() -> None:
    assert clean("a.yaml", OPTIONS) == f'model: "/srv/model"\nmax-num-batched-tokens: 8192\napi-key: {redact.MASK}\n'


@pytest.mark.parametrize(
    "line",
    [
        "first key",
        '{"x": "second/key"}',
        "it said: hf_abcdefghijklmnop",
        "planted one",
        "proxy a-name-of-its-own is down",
        "GET /services/T0P/long-secret",
        "sig=signature1",
        "argument word-of-command",
        "pass-of-bob",
    ],
)
def test_secrets_of_the_configuration_are_gone_wherever_they_stand(line: str) -> None:
    others = (("d.json", json.dumps(DESCRIPTION)), ("s.json", json.dumps(SETTINGS)), ("o.yaml", OPTIONS))
    known = {secret for other in others for secret in redact.found_in(*other)}
    text = clean("log.txt", line, *others)
    assert redact.MASK in text
    assert not any(secret in text for secret in known)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (
            "non-default args: {'api_key': ['an old one'], 'port': 8000}",
            "non-default args: {'api_key': ********, 'port': 8000}",
        ),
        ("export AWS_SECRET_ACCESS_KEY=abc/def+1 next", "export AWS_SECRET_ACCESS_KEY=******** next"),
        ("Authorization: Bearer abcd.efgh-ij", "Authorization: Bearer ********"),
        ("vllm serve --api-key abc --port 1", "vllm serve --api-key ******** --port 1"),
        ("proxy http://bob:geheim@proxy:3128/ used", "proxy http://********@proxy:3128/ used"),
        ("token hf_ABCDEFGHIJKLMNOPQ", "token ********"),
        ('password = "two words" rest', "password = ******** rest"),
    ],
)
def test_what_looks_like_a_secret(line: str, left: str) -> None:
    assert redact.Redactor([]).clean("log.txt", line) == left


@pytest.mark.parametrize(
    "line",
    [
        "vllm:prompt_tokens_total 5",
        "max_tokens=16, temperature=0",
        "num_batched_tokens: 8192",
        "keys 3",
        "Engine 000: Avg prompt throughput: 1.0 tokens/s",
    ],
)
def test_what_is_none_is_left(line: str) -> None:
    assert redact.Redactor([]).clean("log.txt", line) == line


def test_damaged_files_tell_nothing() -> None:
    text = json.dumps(DESCRIPTION)[:-2]
    assert "planted" not in clean("a.json", text)
    damaged = 'model: "m"\napi-key: ["first key", "seco'
    assert clean("a.yaml", damaged) == f'model: "m"\napi-key: {redact.MASK}\n'
    assert {"first", "seco"} <= redact.found_in("a.yaml", damaged)


@given(st.text(min_size=4, max_size=40).filter(lambda text: text.strip("*")))
def test_no_form_of_a_secret_is_left(secret: str) -> None:
    description = json.dumps({"environment": {"API_KEY": secret}})
    known = redact.Redactor(redact.found_in("a.json", description))
    for text in (f"x {secret} y", json.dumps(secret), repr(secret), json.dumps({"note": secret})):
        assert secret not in known.clean("log.txt", text).replace(redact.MASK, "")
