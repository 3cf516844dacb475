"""``egress check`` as a person and a script meet it: the words, the JSON, the exit status."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.flow import IPAddress
from gateway.net.resolve import ResolveError, Resolver, ResolveTimeout

POLICY = """\
network:
  allow_out: ["*.openai.com:443", "1.1.1.1:53"]
  deny_out: [0.0.0.0/0]
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return str(file)


@pytest.mark.parametrize(
    ("targets", "status"),
    [
        (["api.openai.com:443"], 0),
        (["api.openai.com:443", "1.1.1.1:53"], 0),
        (["evil.example"], 1),
        (["169.254.169.254:80"], 1),
        (["api.openai.com"], 3),
        (["api.openai.com:443", "api.openai.com"], 3),
        (["api.openai.com", "evil.example"], 1),
    ],
)
def test_the_exit_status(policy: str, targets: list[str], status: int) -> None:
    assert main(["check", "--policy", policy, *targets]) == status


def test_a_line_for_a_person(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--policy", policy, "API.openai.com:443", "evil.example:443", "1.1.1.1", "8.8.8.8:53"])
    assert capsys.readouterr().out.splitlines() == [
        ("allowed  api.openai.com:443 by allow_out[0] *.openai.com:443 (row 3, proxy, allowed_name); "
        "at an address of the name's own"),
        ("blocked  evil.example:443 by deny_out[0] 0.0.0.0/0 (row 4, proxy, no_allow_entry); "
        "DNS answers 192.0.0.8, and what connects there is refused"),
        "unknown  1.1.1.1; it depends on the port: allowed at 53; ask with one, as in NAME:443",
        ("allowed  8.8.8.8:53 by resolver 8.8.8.8 (dns); "
        "the gateway answers DNS itself: allowed names are forwarded"),
    ]  # fmt: skip


def test_an_object_for_a_script(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--json", "--policy", policy, "api.openai.com:443", "203.0.113.9:443"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "target": "api.openai.com:443",
        "verdict": "allow",
        "row": 3,
        "rule": "allow_out[0] *.openai.com:443",
        "reason": "allowed_name",
        "layer": "proxy",
        "domain": "api.openai.com",
        "dest_ip": None,
        "dest_port": 443,
        "addresses": [],
        "note": "at an address of the name's own",
    }
    assert (second["verdict"], second["rule"], second["dest_ip"]) == (
        "block",
        "deny_out[0] 0.0.0.0/0",
        "203.0.113.9",
    )


def test_allow_entries_alone_deny_the_rest_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--allow-out", "api.openai.com", "api.openai.com"]) == 0
    assert main(["check", "--allow-out", "api.openai.com", "evil.example"]) == 1
    assert "everything else is denied" in capsys.readouterr().err
    assert main(["check", "--allow-out", "api.openai.com", "--deny-out", "10.0.0.0/8", "203.0.113.9"]) == 0


@pytest.mark.parametrize(("uid", "layer"), [(0, "kernel"), (1000, "proxy")])
def test_it_answers_for_the_link_that_run_takes(
    uid: int, layer: str, policy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gateway.privilege.os.geteuid", lambda: uid)
    assert main(["check", "--json", "--policy", policy, "1.1.1.1:53"]) == 0
    assert json.loads(capsys.readouterr().out)["layer"] == layer
    assert main(["check", "--link", "lo", "--json", "--policy", policy, "1.1.1.1:53"]) == 0
    assert json.loads(capsys.readouterr().out)["layer"] == "proxy"


def test_the_host_itself_is_in_the_floor() -> None:
    assert main(["check", "127.0.0.1:80"]) == 1


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["a b"], 2, "egress: 'a b': white space"),
        (
            ["*.openai.com"],
            2,
            "egress: '*.openai.com': a pattern, not a name; write one name, as api.openai.com",
        ),
        (["--allow-out", "*", "a.b"], 78, "egress: allow_out[0] '*': a * alone is no suffix"),
        (
            ["--no-internet", "--allow-out", "a.b", "a.b"],
            78,
            "egress: allow_out[0] 'a.b': allowed, and no internet",
        ),
        (["--policy", "/none", "a.b"], 78, "egress: /none: No such file or directory"),
        (
            ["--policy", "/none", "--dns", "strict", "a.b"],
            2,
            "egress: --policy and --dns both say what the policy is",
        ),
    ],
)
def test_errors_are_one_line(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *argv]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(said)
    assert len(output.err.splitlines()) == 1


def _resolver_says(monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...] | Exception) -> None:
    async def addresses(self: Resolver, name: str) -> tuple[IPAddress, ...]:
        if isinstance(said, Exception):
            raise said
        return tuple(map(ip_address, said))

    monkeypatch.setattr(Resolver, "addresses", addresses)


@pytest.mark.parametrize(
    ("said", "status", "shown"),
    [
        (("203.0.113.9", "203.0.113.8"), 0, "-> 203.0.113.9, 203.0.113.8"),
        (("10.0.0.1",), 1, "forbidden_answer"),
        (ResolveError("api.openai.com: NXDOMAIN, no address"), 1, "NXDOMAIN"),
        (ResolveTimeout("8.8.8.8 does not answer"), 3, "does not answer"),
    ],
)
def test_resolve(
    policy: str,
    said: tuple[str, ...] | Exception,
    status: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _resolver_says(monkeypatch, said)
    assert main(["check", "--policy", policy, "--resolve", "api.openai.com:443"]) == status
    assert shown in capsys.readouterr().out


def test_a_name_that_dns_keeps_back_is_not_resolved(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _resolver_says(monkeypatch, AssertionError("nobody may ask for it"))
    assert main(["check", "--policy", policy, "--resolve", "evil.example", "1.1.1.1:53"]) == 1
