"""The published schema is current, and says of keys and types what the policy says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import rules
from gateway import ALL_TRAFFIC, NetworkPolicy, PolicyError, SecurityPolicy
from rules.schema import policy_schema

VALIDATOR = jsonschema.Draft202012Validator(policy_schema())


def test_the_published_file_is_current() -> None:
    published = Path(rules.__file__).with_name("policy.schema.json").read_text()
    assert json.loads(published) == policy_schema(), "run: egress policy schema > rules/policy.schema.json"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(policy_schema())


@pytest.mark.parametrize(
    "policy",
    [
        SecurityPolicy(),
        SecurityPolicy(NetworkPolicy()),
        SecurityPolicy(
            NetworkPolicy(
                ["api.openai.com"], [ALL_TRAFFIC], dns="strict", resolver="2001:db8::1", ech="refuse"
            )
        ),
    ],
)
def test_every_policy_fits(policy: SecurityPolicy) -> None:
    VALIDATOR.validate(policy.to_dict())


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"deny_out": []},
        {"network": []},
        {"network": {"alow_out": []}},
        {"network": {"allow_out": "api.openai.com"}},
        {"network": {"allow_out": [443]}},
        {"network": {"allow_out": [""]}},
        {"network": {"deny_out": None}},
        {"network": {"dns": "off"}},
        {"network": {"ech": True}},
        {"network": {"resolver": 8}},
        {"audit": None},
        {"audit": {"enabled": "yes"}},
        {"audit": {"on": True}},
    ],
)
def test_what_does_not_fit_is_no_policy_either(data: Any) -> None:
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(PolicyError):
        SecurityPolicy.from_dict(data)
