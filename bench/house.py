"""Many sandboxes of one program: ``python -m bench.house DIRECTORY`` reads how many more there shall be, a number a line, and makes them.

It answers each line with a list: of every sandbox its supervisor's pid, the descriptor in there of the namespace that the sandbox is in, and how long
it took to attach. Each is a real one, cell, worker, records and all, forked from this process, which has imported everything once; only a command is
not started in it. When standard input ends they all go.
"""

import json
import os
import sys
import time
from pathlib import Path

from bench.place import ALLOWED, DNS_IP
from gateway.netd.server import Netd
from gateway.supervisor import Supervisor
from rules import NetworkPolicy, SecurityPolicy


def main() -> None:
    """Until standard input ends."""
    directory = Path(sys.argv[1])
    _import_all()
    alive, ours = os.pipe()
    made = 0
    print("ready", flush=True)
    for line in sys.stdin:
        answers = []
        for _ in range(int(line)):
            found = _fork(directory / f"records-{made}", alive, ours)
            if found is None:
                break  # the asker sees that they are fewer
            answers.append(found)
            made += 1
        print(json.dumps(answers), flush=True)


def _fork(records: Path, alive: int, ours: int) -> list[float] | None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.close(reader)
        status = 1
        try:
            _serve(records, alive, writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    if not said:
        os.waitpid(pid, 0)
        return None
    netns, took_ms = json.loads(said)
    return [pid, netns, took_ms]


def _serve(records: Path, alive: int, writer: int) -> None:
    started = time.monotonic()
    network = NetworkPolicy(allow_out=list(ALLOWED), deny_out=["0.0.0.0/0"], resolver=DNS_IP)
    records.mkdir(mode=0o700)
    left: list[bytes] = []
    with Supervisor(SecurityPolicy(network), records.name, records, Netd(), None, "veth") as supervisor:
        supervisor.open()
        supervisor.watch(alive, lambda: left.append(os.read(alive, 1)))
        took_ms = round((time.monotonic() - started) * 1e3, 2)
        os.write(writer, json.dumps([supervisor.namespaces["netns"], took_ms]).encode())
        os.close(writer)
        while not left:
            supervisor.turn(None)


def _import_all() -> None:
    """What every netd and every worker would import for itself."""
    import gateway.netd.held
    import gateway.worker  # noqa: F401
    import rules.iptables  # noqa: F401


if __name__ == "__main__":
    main()
