"""Record the requests that real clients send without TLS: ``python -m tests.gateway.sniff.make_http_corpus``, as root, by hand.

As ``make_corpus``: namespaces of its own, only loopback, the bytes as they were sent, and what is expected written beside the command.
"""

import json
import os
import queue
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.gateway.sniff.make_corpus import Client, listen, record, version

CORPUS = Path(__file__).parent / "http_corpus"
INDEX = CORPUS / "index.json"
INSIDE = "EGRESS_CORPUS_INSIDE"


def curl() -> Iterator[Client]:
    base = ["curl", "--silent", "--max-time", "5"]
    for file, host, flags in (
        ("get", "get.curl.test", ["http://get.curl.test/path?query"]),
        ("1.0", "old.curl.test", ["--http1.0", "http://old.curl.test/"]),
        ("port", "port.curl.test", ["http://PORT.curl.test:8080/"]),
        ("trailing-dot", "dot.curl.test", ["http://dot.curl.test./"]),
        ("post", "post.curl.test", ["--data", "a=b", "http://post.curl.test/"]),
        (
            "chunked",
            "chunked.curl.test",
            ["-H", "Transfer-Encoding: chunked", "-d", "a", "http://chunked.curl.test/"],
        ),
        ("upload", "upload.curl.test", ["-T", "/etc/hosts", "http://upload.curl.test/"]),
        ("head", "head.curl.test", ["--head", "--compressed", "-u", "user:word", "http://head.curl.test/"]),
        ("proxy", "proxied.curl.test", ["-x", "http://127.0.0.1:80", "http://proxied.curl.test/"]),
        ("proxy-port", "proxied.curl.test", ["-x", "http://127.0.0.1:80", "http://proxied.curl.test:81/"]),
        (
            "options",
            "options.curl.test",
            ["-X", "OPTIONS", "--request-target", "*", "http://options.curl.test/"],
        ),
        ("user-host", "other.curl.test", ["-H", "Host: other.curl.test", "http://get.curl.test/"]),
        ("h2c", "h2c.curl.test", ["--http2", "http://h2c.curl.test/"]),
        ("prior-knowledge", None, ["--http2-prior-knowledge", "http://h2c.curl.test/"]),
        ("tunnel", None, ["-p", "-x", "http://127.0.0.1:80", "http://tunnel.curl.test/"]),
        ("no-host", None, ["-H", "Host:", "http://get.curl.test/"]),
        ("address", None, ["http://127.0.0.1/"]),
    ):
        yield Client(f"curl-{file}", [*base, *flags], host)


def others(directory: Path) -> Iterator[Client]:
    yield Client(
        "wget-get", ["wget", "-q", "-t", "1", "-T", "5", "-O", "/dev/null", "http://wget.test/"], "wget.test"
    )
    urllib = "import urllib.request; urllib.request.urlopen('http://urllib.python.test/', b'a=b', timeout=5)"
    yield Client("python-urllib", [sys.executable, "-c", urllib], "urllib.python.test")
    client = (
        "import http.client; http.client.HTTPConnection('client.python.test', timeout=5).request('GET', '/')"
    )
    yield Client("python-http-client", [sys.executable, "-c", client], "client.python.test")
    quiet = "process.on('uncaughtException', () => process.exit(0)); "
    for file, host, script in (
        ("http", "http.node.test", "require('http').get('http://http.node.test/')"),
        ("fetch", "fetch.node.test", "fetch('http://fetch.node.test/').catch(() => {})"),
        (
            "post",
            "post.node.test",
            "require('http').request('http://post.node.test/', {method: 'POST'}).end('body')",
        ),
    ):
        yield Client(f"node-{file}", ["node", "-e", quiet + script], host)
    yield Client("git", ["git", "ls-remote", "http://git.test/x.git"], "git.test")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --timeout=5000 --dump-dom"
    rules = "--host-resolver-rules=MAP chromium.test 127.0.0.1"
    command = [
        "chromium",
        *flags.split(),
        rules,
        f"--user-data-dir={directory}/chromium",
        "http://chromium.test/",
    ]
    yield Client("chromium", command, "chromium.test")


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
  public static void main(String[] said) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(said[0]));
    if (said.length > 1) request.POST(HttpRequest.BodyPublishers.ofString(said[1]));
    HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.discarding());
  }
}
"""


def java(directory: Path) -> Iterator[Client]:
    """Both ask for h2c, as each request of this client does."""
    source = directory / "Ask.java"
    source.write_text(JAVA)
    for file, words in (("get", []), ("post", ["body"])):
        host = f"{file}.java.test"
        yield Client(f"java-{file}", ["java", str(source), f"http://{host}/", *words], host)


def inside() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as path:
        every = [*curl(), *others(Path(path)), *java(Path(path))]
        names = set(re.findall(r"[\w.-]+\.test\b\.?", " ".join(" ".join(client.command) for client in every)))
        hosts = Path(path) / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in sorted(names)))
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        flights: queue.Queue[bytes] = queue.Queue()
        for port in (80, 8080, 81):
            listen(flights, port)
        rows = [row for client in every if (row := recorded(client, flights, Path(path)))]
    INDEX.write_text(json.dumps(sorted(rows, key=lambda row: str(row["file"])), indent=1) + "\n")


def recorded(client: Client, flights: "queue.Queue[bytes]", home: Path) -> dict[str, object] | None:
    while not flights.empty():
        flights.get()
    try:
        flight = record(client, flights, home)
    except FileNotFoundError:
        flight = None
    if flight is None:
        print(f"{client.file}: nothing came")
        return None
    (CORPUS / f"{client.file}.bin").write_bytes(flight)
    print(f"{client.file}: {len(flight)} bytes")
    program = client.command[0]
    name = "python" if program == sys.executable else program
    port = re.search(r"\.test:(\d+)/", " ".join(client.command))
    return {
        "file": f"{client.file}.bin",
        "client": name,
        "version": version(program),
        "host": client.host,
        "port": int(port[1]) if port else None,
        "reason": None if client.host else ("bad_name" if "127.0.0.1/" in client.command[-1] else "bad_http"),
    }


def main() -> None:
    if os.environ.get(INSIDE):
        inside()
        return
    CORPUS.mkdir(exist_ok=True)
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.gateway.sniff.make_http_corpus"]
    raise SystemExit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
