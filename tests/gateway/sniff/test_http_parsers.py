"""h11 and Node's parser read the same bytes: where they take a request, we must not have seen another host in it."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import h11
import pytest

from gateway.sniff import NeedMore, Sniffed, sniff
from tests.gateway.sniff.cursor_tls import hostname
from tests.gateway.sniff.head_mutants import SEEDS, mutants
from tests.gateway.sniff.heads import GET, head
from tests.gateway.sniff.http_cases import HEADS

MANY = list(mutants(20000, seed=9))
EVERY = [case.data for case in HEADS] + SEEDS + MANY
NODE = Path(__file__).with_name("node_parser.js")

Hosts = list[bytes] | None
"""Every host that a parser read in a request, or None where it took no request."""


def by_h11(data: bytes) -> Hosts:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    hosts = [value for name, value in event.headers if name == b"host"]
    scheme, separator, rest = event.target.partition(b"://")
    if separator and scheme.isalpha():
        hosts.append(rest.split(b"/")[0].split(b"?")[0].split(b"#")[0])
    elif event.method == b"CONNECT":
        hosts.append(event.target)
    return hosts


def by_node(every: Sequence[bytes]) -> list[Hosts]:
    """One process for all of them."""
    asked = "".join(f"{data.hex()}\n" for data in every)
    done = subprocess.run(
        ["node", str(NODE)], input=asked, capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(every)
    return [None if hosts is None else [host.encode("latin-1") for host in hosts] for hosts in answers]


def contradicts(data: bytes, hosts: Hosts) -> bool:
    """Whether a parser saw another host than we, or another one as well. That it sees none in what we read is no harm."""
    seen = sniff(data)
    if hosts is None or not isinstance(seen, Sniffed):
        return False
    return {spelling(host) for host in hosts} != {seen.host}


def spelling(authority: bytes) -> str | None:
    """Host without port; None for what is no hostname, so that it equals no host of ours."""
    name, _, port = authority.strip(b" \t").partition(b":")
    return hostname(name) if port.isdigit() or not port else None


def test_h11_sees_no_other_host() -> None:
    taken = 0
    for data in EVERY:
        hosts = by_h11(data)
        taken += hosts is not None
        assert not contradicts(data, hosts), data
    assert taken > len(MANY) / 10


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.timeout(60)
def test_node_sees_no_other_host() -> None:
    taken = 0
    for data, hosts in zip(EVERY, by_node(EVERY), strict=True):
        taken += hosts is not None
        assert not contradicts(data, hosts), (data, hosts)
    assert taken > len(MANY) / 10


def test_what_h11_reads_of_a_head_is_what_was_written() -> None:
    """The oracle itself: it sees the second host, and the one in the target."""
    assert by_h11(head(GET, b"Host: a.test")) == [b"a.test"]
    assert by_h11(head(b"GET http://b.test/ HTTP/1.1", b"Host: a.test")) == [b"a.test", b"b.test"]
    assert by_h11(b"GET / HTTP/1.1\nHost: lf.test\n\n") == [b"lf.test"]
    assert by_h11(head(GET, b"Host : a.test")) is None


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_what_node_reads_of_a_head_is_what_was_written() -> None:
    two = head(GET, b"Host: a.test", b"host: b.test")
    tunnel = head(b"CONNECT c.test:443 HTTP/1.1", b"Host: d.test")
    absolute = head(b"GET http://b.test/ HTTP/1.1", b"Host: a.test")
    upgrade = head(GET, b"Host: a.test", b"Connection: Upgrade", b"Upgrade: websocket")
    refused = [head(GET, b"Host: a.test")[:-1], b"\x16\3\1", head(GET, b"Host: a\0.test")]
    assert by_node([two, tunnel, absolute, upgrade, *refused]) == [
        *([b"a.test", b"b.test"], [b"d.test", b"c.test:443"], [b"a.test", b"b.test"], [b"a.test"]),
        *(None, None, None),
    ]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_no_other_parser_is_done_before_us() -> None:
    """A head ends for all at the same byte: else what follows would be a body to one and a request to the other."""
    every = [data for data in EVERY[::3] if isinstance(sniff(data), Sniffed)]
    ends = [seen.consumed for seen in map(sniff, every) if isinstance(seen, Sniffed)]
    short = [data[: end - 1] for data, end in zip(every, ends, strict=True)]
    assert all(isinstance(sniff(data), NeedMore) for data in short)
    assert by_node(short) == [None] * len(short)
    assert [by_h11(data) for data in short] == [None] * len(short)
    assert len(short) > 300
