"""mitmproxy: transparent mode, allowed names passed through undecrypted."""

from bench.adapter import Adapter
from bench.place import ALLOWED, PROXY_PORT, Place

ADDON = """\
ALLOWED = {names!r}


def tls_clienthello(data):
    data.ignore_connection = data.client_hello.sni in ALLOWED
    print(data.context.client.peername, data.client_hello.sni, data.ignore_connection)
"""


class Mitmproxy(Adapter):
    name = "mitmproxy"
    program = "mitmdump"
    install = "pip install mitmproxy"
    note = "transparent mode by NAT, allowed names passed through, a printed line"
    redirect = "redirect"

    def files(self, place: Place) -> dict[str, str]:
        return {"addon.py": ADDON.format(names=ALLOWED)}

    def argv(self, place: Place) -> list[str]:
        options = {"confdir": place.directory, "connection_strategy": "lazy", "flow_detail": 0}
        settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        mode = f"transparent@{PROXY_PORT}"
        return [self.path(), "-q", "--mode", mode, "-s", str(place.directory / "addon.py"), *settings]
