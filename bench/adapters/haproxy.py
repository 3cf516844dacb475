"""HAProxy: a transparent listener, the server name read, a log line a connection; with splice, without, and with names bound (``do-resolve``)."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from bench.adapter import Adapter, Running
from bench.place import ALLOWED, DNS_IP, PROXY_PORT, Place

CONFIG = """\
global
  maxconn 6000
  nbthread 1
  log {log} local0
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 10s
  timeout client 1h
  timeout server 1h
{splice}{resolvers}
frontend cell
  bind 0.0.0.0:{port} transparent
  tcp-request inspect-delay 5s
  acl allowed req.ssl_sni -f {names}
{bind}  tcp-request content accept if {{ req.ssl_hello_type 1 }} allowed
  tcp-request content reject if {{ req.ssl_hello_type 1 }}
  default_backend asked
backend asked
  server asked 0.0.0.0:0
"""
SPLICE = "  option splice-request\n  option splice-response\n"
RESOLVERS = f"resolvers lab\n  nameserver one {DNS_IP}:53\n  hold valid 300s\n"
BIND = """\
  tcp-request content do-resolve(sess.ip,lab,ipv4) req.ssl_sni if allowed
  tcp-request content set-dst var(sess.ip) if allowed
"""


class HAProxy(Adapter):
    name = "haproxy"
    program = "haproxy"
    install = "apt-get install haproxy"
    note = "transparent bind, req.ssl_sni, splice, a log line"
    version_argument = "-v"
    splice = True
    bound = False
    entries: tuple[str, ...] = ()

    def files(self, place: Place) -> dict[str, str]:
        config = CONFIG.format(
            log=place.directory / "log",
            splice=SPLICE if self.splice else "",
            resolvers=RESOLVERS if self.bound else "",
            bind=BIND if self.bound else "",
            port=PROXY_PORT,
            names=place.directory / "names",
        )
        return {"haproxy.cfg": config, "names": "".join(f"{name}\n" for name in (*ALLOWED, *self.entries))}

    def argv(self, place: Place) -> list[str]:
        return [self.path(), "-db", "-f", str(place.directory / "haproxy.cfg")]

    @contextlib.contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """With somebody who takes the log lines, as a syslogd would; that one is not counted."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.bind(str(place.directory / "log"))
            reader = threading.Thread(target=_read, args=(log,), daemon=True)
            reader.start()
            with super().start(place) as running:
                yield running
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(place.directory / "log"))
            reader.join()


class HAProxyWithoutSplice(HAProxy):
    name = "haproxy-no-splice"
    note = "the same, bytes copied"
    splice = False


class HAProxyBound(HAProxy):
    name = "haproxy-do-resolve"
    note = "the same with splice, and the name resolved and dialled: the work nearest to ours"
    bound = True


def _read(log: socket.socket) -> None:
    while log.recv(65536):
        pass
