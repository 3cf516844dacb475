"""Policy files: what is read, and how everything that is none is refused on one line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ALL_TRAFFIC, NetworkPolicy, PolicyError, SecurityPolicy
from rules.document import dump_policy, load_policy, parse_policy

POLICY = SecurityPolicy(NetworkPolicy(["api.openai.com", "*.anthropic.com:443"], [ALL_TRAFFIC]))

YAML = """\
network:
  allow_out:
    - api.openai.com       # the model
    - "*.anthropic.com:443"
  deny_out: [0.0.0.0/0]
"""


def test_yaml_and_json(tmp_path: Path) -> None:
    yaml_file, json_file = tmp_path / "policy.yaml", tmp_path / "policy.JSON"
    yaml_file.write_text(YAML)
    json_file.write_text(json.dumps(POLICY.to_dict()))
    assert load_policy(yaml_file) == load_policy(str(json_file)) == POLICY


def test_a_byte_order_mark_is_no_text() -> None:
    assert parse_policy(b"\xef\xbb\xbf" + YAML.encode()) == POLICY


def test_dumped_yaml_is_readable() -> None:
    text = dump_policy(POLICY)
    assert parse_policy(text) == POLICY
    assert text.splitlines()[:3] == ["network:", "  allow_out:", "  - api.openai.com"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "policy: the file is empty, which would allow everything; for that write network: null"),
        (
            "# nothing\n",
            "policy: the file is empty, which would allow everything; for that write network: null",
        ),
        ("network: {}\nnetwork: {}\n", "policy: line 2: the key 'network' is given twice; merge the two"),
        (
            "network:\n  deny_out: []\n  deny_out: []\n",
            "policy: line 3: the key 'deny_out' is given twice; merge the two",
        ),
        (
            "network:\n  allow_out:\n    - *.openai.com\n",
            (
                "policy: line 3, column 8: did not find expected alphabetic or numeric character; "
                "put an entry that begins with * [ & ! or holds : and a space in quotes"
            ),
        ),
        (
            "network: {allow_out: [443]}",
            "allow_out[0] '443': an entry is text; put it in quotes, as 'api.openai.com'",
        ),
        ("network: !!python/object:os.system {}", None),
        ("network: {}\n---\nnetwork: {}\n", None),
        ("network: &a\n  allow_out: *a\n", None),
        ("\x00", None),
        ("[" * 5000, None),
    ],
)
def test_yaml_that_is_no_policy(text: str, error: str | None) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert len(caught.value.errors) == 1
    assert len(caught.value.errors[0].splitlines()) == 1
    assert error in (None, caught.value.errors[0])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            '{"network": {"dns": "strict", "dns": "guarded"}}',
            "policy: the key 'dns' is given twice; merge the two",
        ),
        (
            "{",
            "policy: line 1, column 2: Expecting property name enclosed in double quotes; mend the JSON there",
        ),
        ("[" * 100_000, "policy: nested too deep; a policy has three levels"),
        ("null", "policy: the file is empty, which would allow everything; for that write network: null"),
        ("", "policy: line 1, column 1: Expecting value; mend the JSON there"),
    ],
)
def test_json_that_is_no_policy(text: str, error: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, is_json=True)
    assert caught.value.errors == [error]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(PolicyError) as caught:
        load_policy(missing)
    assert caught.value.errors == [f"{missing}: No such file or directory; name a file that can be read"]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"network: \xff")
    with pytest.raises(PolicyError) as caught:
        load_policy(binary)
    assert caught.value.errors == [f"{binary}: byte 9 is not UTF-8; save the file as UTF-8"]


@given(st.text() | st.binary(), st.booleans())
def test_any_text_is_a_policy_or_a_policy_error(text: str | bytes, is_json: bool) -> None:
    try:
        parse_policy(text, is_json=is_json)
    except PolicyError as error:
        assert error.errors
