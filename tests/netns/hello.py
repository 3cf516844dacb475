"""First messages that clients send, for tests that play the client by hand."""

import ssl


def client_hello(host: str | None) -> bytes:
    """A real ClientHello, by OpenSSL."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = host is not None
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def get(host: str, path: str = "/", *, lines: str = "") -> bytes:
    """A GET over HTTP/1.1."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n".encode()
