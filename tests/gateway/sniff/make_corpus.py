"""Record what real clients send first: ``python -m tests.gateway.sniff.make_corpus [prefix]``, as root, by hand, when clients change.

Runs in network and mount namespaces of its own: there is nothing but loopback, /etc/hosts knows the names, and a listener on port 443
keeps the first flight of each client, as it was sent, and hangs up. What is expected of a flight is written here beside the command
that makes it; no parser of ours is asked. Clients that are not installed keep their old files.
"""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).parent / "corpus"
INDEX = CORPUS / "index.json"
INSIDE = "EGRESS_CORPUS_INSIDE"
QUIET_S = 0.4
CLIENT_S = 40.0
BOTH = ("h2", "http/1.1")


class Client(NamedTuple):
    file: str
    command: list[str]
    host: str | None
    """None: no server_name is sent."""
    alpn: tuple[str, ...] = ()
    ech: bool = False


def s_client(file: str, *flags: str, alpn: tuple[str, ...] = (), host: str | None = "") -> Client:
    name = f"{file}.openssl.test"
    command = ["openssl", "s_client", "-connect", f"{name}:443", *flags]
    return Client(f"openssl-{file}", command, name if host == "" else host, alpn)


def openssl(directory: Path) -> Iterator[Client]:
    yield s_client("default")
    yield s_client("tls1", "-tls1", "-cipher", "ALL:@SECLEVEL=0")
    yield s_client("tls1-1", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    yield s_client("tls1-2", "-tls1_2")
    yield s_client("tls1-3", "-tls1_3")
    yield s_client("noservername", "-noservername", host=None)
    yield s_client("noservername-tls1-2", "-tls1_2", "-noservername", "-no_ticket", host=None)
    yield s_client("alpn", "-alpn", "h2,http/1.1", alpn=BOTH)
    yield s_client("alpn-odd", "-alpn", "x,acme-tls/1", alpn=("x", "acme-tls/1"))
    yield s_client("groups", "-groups", "P-256:X25519:P-521")
    yield s_client("key-share-of-1024", "-groups", "ffdhe8192")
    yield s_client("no-ticket", "-no_ticket")
    yield s_client("status", "-status")
    yield s_client("all-ciphers", "-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    yield s_client("srtp", "-use_srtp", "SRTP_AES128_CM_SHA1_80")
    yield s_client("max-fragment", "-maxfraglen", "512")
    yield s_client("no-middlebox", "-no_middlebox")
    yield s_client("post-handshake-auth", "-enable_pha")
    yield s_client("psk", "-psk", "00112233445566778899aabbccddeeff")
    yield s_client("next-protocol", "-tls1_2", "-nextprotoneg", "http/1.1")
    many = tuple(f"protocol-{number}" for number in range(60))
    yield s_client("three-records", "-max_send_frag", "512", "-alpn", ",".join(many), alpn=many)
    yield s_client("upper-case", "-servername", "UPPER.OpenSSL.test", host="upper.openssl.test")
    yield s_client("trailing-dot", "-servername", "dot.openssl.test.", host="dot.openssl.test")
    yield s_client("one-label", "-servername", "localhost", host="localhost")
    session, early = _early_data(directory)
    yield s_client("resumed", "-sess_in", str(session))
    yield s_client(
        "early-data", "-sess_in", str(session), "-early_data", str(early), "-alpn", "x", alpn=("x",)
    )


def _early_data(directory: Path) -> tuple[Path, Path]:
    """A TLS 1.3 session of a real handshake with a throw-away server that takes early data, and something to send early."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    session, early = directory / "session.pem", directory / "early"
    early.write_bytes(b"GET / HTTP/1.1\r\nHost: early.openssl.test\r\n\r\n")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=openssl.test -days 2"
    subprocess.run(
        ["openssl", *made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    listen = "s_server -accept 127.0.0.1:8443 -early_data -alpn x -key"
    server = subprocess.Popen(
        ["openssl", *listen.split(), key, "-cert", certificate],
        stdin=subprocess.PIPE,  # its end would end the server
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    client = None
    try:
        assert server.stdout is not None
        while not server.stdout.readline().startswith(b"ACCEPT"):
            pass
        connect = "s_client -connect 127.0.0.1:8443 -alpn x -sess_out"
        client = subprocess.Popen(
            ["openssl", *connect.split(), session],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 5
        while not (session.exists() and session.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for process in (client, server):
            if process is not None:
                process.kill()
                process.communicate()
    return session, early


def curl() -> Iterator[Client]:
    base = ["curl", "--silent", "--insecure", "--max-time", "5"]
    yield Client("curl-http2", [*base, "--http2", "https://h2.curl.test/"], "h2.curl.test", BOTH)
    yield Client("curl-http1", [*base, "--http1.1", "https://h1.curl.test/"], "h1.curl.test", ("http/1.1",))
    yield Client("curl-no-alpn", [*base, "--no-alpn", "https://plain.curl.test/"], "plain.curl.test")
    tls12 = [*base, "--tls-max", "1.2", "--http1.1", "https://tls12.curl.test/"]
    yield Client("curl-tls1-2", tls12, "tls12.curl.test", ("http/1.1",))
    yield Client("curl-address", [*base, "https://127.0.0.1/"], None, BOTH)
    yield Client("curl-trailing-dot", [*base, "https://dot.curl.test./"], "dot.curl.test", BOTH)


PYTHON = """
import socket, ssl, sys
context = ssl.create_default_context()
{setup}
with socket.create_connection(("127.0.0.1", 443)) as plain:
    context.wrap_socket(plain, server_hostname={name!r})
"""


def python() -> Iterator[Client]:
    unchecked = "context.check_hostname = False; context.verify_mode = ssl.CERT_NONE"
    for file, setup, name, host, alpn in (
        ("default", "", "default.python.test", "default.python.test", ()),
        (
            "alpn",
            "context.set_alpn_protocols(['http/1.1'])",
            "alpn.python.test",
            "alpn.python.test",
            ("http/1.1",),
        ),
        (
            "tls1-2",
            "context.maximum_version = ssl.TLSVersion.TLSv1_2",
            "tls12.python.test",
            "tls12.python.test",
            (),
        ),
        ("no-name", unchecked, None, None, ()),
        ("address", "", "127.0.0.1", None, ()),
        ("u-label", "", "b\u00fccher.python.test", "xn--bcher-kva.python.test", ()),
        ("underscore", "", "under_score.python.test", "under_score.python.test", ()),
    ):
        script = PYTHON.format(setup=setup, name=name)
        yield Client(f"python-{file}", [sys.executable, "-c", script], host, alpn)


def node() -> Iterator[Client]:
    quiet = "process.on('uncaughtException', () => process.exit(0)); "
    for file, script, host, alpn in (
        ("https", "require('https').get('https://https.node.test/')", "https.node.test", ()),
        ("fetch", "fetch('https://fetch.node.test/').catch(() => {})", "fetch.node.test", ("http/1.1",)),
        ("http2", "require('http2').connect('https://http2.node.test/')", "http2.node.test", ("h2",)),
        ("tls", "require('tls').connect(443, 'h', {servername: 'tls.node.test'})", "tls.node.test", ()),
        ("no-name", "require('tls').connect(443, '127.0.0.1', {})", None, ()),
    ):
        yield Client(f"node-{file}", ["node", "-e", quiet + script.replace("'h'", "'127.0.0.1'")], host, alpn)


def gnutls() -> Iterator[Client]:
    """GnuTLS, by two of its users."""
    wget = ["wget", "--quiet", "--tries=1", "--timeout=5", "--output-document=/dev/null"]
    yield Client("wget-default", [*wget, "https://default.wget.test/"], "default.wget.test")
    yield Client(
        "wget-tls1-2", [*wget, "--secure-protocol=TLSv1_2", "https://tls12.wget.test/"], "tls12.wget.test"
    )
    yield Client(
        "wget-tls1-3", [*wget, "--secure-protocol=TLSv1_3", "https://tls13.wget.test/"], "tls13.wget.test"
    )
    yield Client("wget-address", [*wget, "https://127.0.0.1/"], None)
    yield Client("git", ["git", "ls-remote", "https://git.git.test/x.git"], "git.git.test", BOTH)


def chromium(directory: Path) -> Iterator[Client]:
    """GREASE of every kind, ECH's included, a shuffled order, and a post-quantum key share."""
    for file, url, host, alpn in (
        ("first", "https://first.chromium.test/", "first.chromium.test", BOTH),
        ("second", "https://second.chromium.test/", "second.chromium.test", BOTH),
        ("third", "https://third.chromium.test/", "third.chromium.test", BOTH),
        ("address", "https://127.0.0.1/", None, BOTH),
        (
            "websocket",
            "data:text/html,<script>new WebSocket('wss://ws.chromium.test/')</script>",
            "ws.chromium.test",
            ("http/1.1",),
        ),
    ):
        profile = directory / f"chromium-{file}"
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --timeout=5000 --dump-dom"
        rules = f"--host-resolver-rules=MAP {host} 127.0.0.1"
        command = ["chromium", *flags.split(), rules, f"--user-data-dir={profile}", url]
        yield Client(f"chromium-{file}", command, host, alpn, ech=True)


def listen(flights: "queue.Queue[bytes]", port: int = 443) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=64)

    def keep(connection: socket.socket) -> None:
        flight = b""
        connection.settimeout(QUIET_S if flight else 5)
        with connection:
            try:
                while more := connection.recv(65536):
                    flight += more
                    connection.settimeout(QUIET_S)
            except OSError:
                pass
            if flight:
                flights.put(flight)

    def accept() -> None:
        while True:
            threading.Thread(target=keep, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def record(client: Client, flights: "queue.Queue[bytes]", home: Path) -> bytes | None:
    """The first flight that speaks of the host, or the first at all where none is sent."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        client.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    try:
        deadline = time.monotonic() + CLIENT_S
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            try:
                flight = flights.get(timeout=1)
            except queue.Empty:
                if ended:
                    return None
                continue
            if client.host is None or client.host.encode() in flight.lower():
                return flight
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def version(program: str) -> str:
    argument = "version" if program == "openssl" else "--version"
    said = subprocess.run([program, argument], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "unknown"


def inside() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        every = [*openssl(directory), *curl(), *python(), *node(), *gnutls(), *chromium(directory)]
        hosts = directory / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in sorted(_names(every))))
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        flights: queue.Queue[bytes] = queue.Queue()
        listen(flights)
        index = {row["file"]: row for row in json.loads(INDEX.read_text())} if INDEX.exists() else {}
        wanted = [client for client in every if client.file.startswith(tuple(sys.argv[1:] or [""]))]
        for client in wanted:
            while not flights.empty():
                flights.get()
            try:
                flight = record(client, flights, directory)
            except FileNotFoundError:
                flight = None
            if flight is None:
                print(f"{client.file}: nothing came")
                continue
            (CORPUS / f"{client.file}.bin").write_bytes(flight)
            index[f"{client.file}.bin"] = row(client)
            print(f"{client.file}: {len(flight)} bytes")
        INDEX.write_text(json.dumps([index[file] for file in sorted(index)], indent=1) + "\n")


def _names(every: list[Client]) -> set[str]:
    text = " ".join(" ".join(client.command) for client in every)
    return set(re.findall(r"[\w.-]+\.test\b", text)) | {"dot.curl.test."}


def row(client: Client) -> dict[str, object]:
    program = client.command[0]
    return {
        "file": f"{client.file}.bin",
        "client": "python" if program == sys.executable else program,
        "version": version(program),
        "host": client.host,
        "reason": "no_name" if client.host is None else None,
        "alpn": list(client.alpn),
        "ech": client.ech,
    }


def main() -> None:
    if os.environ.get(INSIDE):
        inside()
        return
    CORPUS.mkdir(exist_ok=True)
    command = [
        "unshare",
        "--net",
        "--mount",
        sys.executable,
        "-m",
        "tests.gateway.sniff.make_corpus",
        *sys.argv[1:],
    ]
    raise SystemExit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
