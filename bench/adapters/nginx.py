"""nginx's stream module: it has no transparent listener, so connections come by NAT, and it dials what the name resolves to."""

from pathlib import Path

from bench.adapter import Adapter
from bench.place import ALLOWED, DNS_IP, ORIGIN_PORT, PROXY_PORT, Place

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
CONFIG = """\
load_module {module};
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 19000; }}
stream {{
  log_format line '$remote_addr $ssl_preread_server_name $upstream_addr $status $bytes_sent $session_time';
  access_log {directory}/access.log line;
  resolver {dns} valid=300s ipv6=off;
  map $ssl_preread_server_name $target {{
{names}  }}
  server {{
    listen {listen};
    ssl_preread on;
    proxy_timeout 1h;
    proxy_pass $target;
  }}
}}
"""


class Nginx(Adapter):
    name = "nginx"
    program = "nginx"
    install = "apt-get install nginx libnginx-mod-stream"
    note = "stream, ssl_preread, NAT (no transparent listener), the name resolved and dialled, a log line"
    redirect = "redirect"
    version_argument = "-v"

    def missing(self) -> str | None:
        if why := super().missing():
            return why
        return None if MODULE.exists() else f"its stream module is not installed: {self.install}"

    def files(self, place: Place) -> dict[str, str]:
        names = "".join(f"    {name} {name}:{ORIGIN_PORT};\n" for name in ALLOWED)
        return {
            "nginx.conf": CONFIG.format(
                module=MODULE,
                directory=place.directory,
                dns=DNS_IP,
                names=names,
                listen=f"{PROXY_PORT} backlog=4096",
            )
        }

    def argv(self, place: Place) -> list[str]:
        directory = place.directory
        return [
            self.path(),
            "-e",
            f"{directory}/error.log",
            "-p",
            str(directory),
            "-c",
            f"{directory}/nginx.conf",
        ]
