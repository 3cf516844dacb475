"""Squid: intercepted TLS, peek at the hello, splice what is allowed."""

import contextlib
import subprocess
from collections.abc import Iterator

from bench.adapter import Adapter, Running
from bench.place import ALLOWED, DNS_IP, PROXY_PORT, Place

CONFIG = """\
http_port 127.0.0.1:3128
https_port {port} intercept ssl-bump generate-host-certificates=off tls-cert={directory}/pair.pem
acl step1 at_step SslBump1
acl allowed ssl::server_name {names}
ssl_bump peek step1
ssl_bump splice allowed
ssl_bump terminate all
http_access allow all
cache deny all
cache_mem 8 MB
dns_nameservers {dns}
max_filedescriptors 20000
client_lifetime 1 day
pinger_enable off
pid_filename none
coredump_dir {directory}
cache_log {directory}/cache.log
access_log stdio:{directory}/access.log
visible_hostname bench
shutdown_lifetime 0 seconds
"""


class Squid(Adapter):
    name = "squid"
    program = "squid"
    install = "apt-get install squid-openssl"
    note = "intercept, peek and splice, the name checked against DNS, a log line"
    redirect = "redirect"
    version_argument = "-v"

    def missing(self) -> str | None:
        if why := super().missing():
            return why
        said = subprocess.run([self.path(), "-v"], capture_output=True, text=True, check=False).stdout
        return None if "openssl" in said.lower() else f"this squid has no ssl_bump: {self.install}"

    def files(self, place: Place) -> dict[str, str]:
        config = CONFIG.format(
            port=PROXY_PORT, directory=place.directory, names=" ".join(ALLOWED), dns=DNS_IP
        )
        return {"squid.conf": config}

    def argv(self, place: Place) -> list[str]:
        own = 'mount -t tmpfs none /dev/shm && exec "$@"'  # what it shares there has one name on a machine, and stays
        squid = [self.path(), "-N", "-f", str(place.directory / "squid.conf")]
        return ["unshare", "--mount", "sh", "-c", own, "sh", *squid]

    @contextlib.contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """With a certificate, which it wants although it never shows it."""
        pair = str(place.directory / "pair.pem")
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=bench",
        ]
        subprocess.run([*request, "-keyout", pair, "-out", f"{pair}.cert"], check=True, capture_output=True)
        with open(pair, "a") as key, open(f"{pair}.cert") as certificate:
            key.write(certificate.read())
        with super().start(place) as running:
            yield running
