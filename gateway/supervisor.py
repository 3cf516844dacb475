"""Everything around one sandboxed command: netd and its cell, a worker that is replaced when it dies, and the keeping of its records.

One thread and one selector, no asyncio: this process must be able to fork a worker at any moment. It holds what a
worker must not lose (listeners, the ledger of undecided attempts) and what a worker must not touch (the audit files).
"""

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from audit.settings import AuditSettings
from gateway.bundle import HOLD, OBEYED, READY, Bundle, Orders
from gateway.errors import EgressError, SetupError
from gateway.flow import Endpoint
from gateway.forwarding import Forwarding
from gateway.keeper import Keeper, open_log
from gateway.kernel import dropped_by
from gateway.launch import Command
from gateway.net.sockets import Listener
from gateway.netd.server import Netd
from gateway.process import WorkerProcess
from gateway.scrapes import Scrapes
from gateway.summary import Summary
from gateway.terminal import Terminal
from gateway.turns import LONG_NS, take_turns_of
from rules.backend import Backend
from rules.link import LinkKind
from rules.plan import build_plan
from rules.policy import NetworkPolicy, SecurityPolicy

STOP_TIMEOUT_S: Final = 5.0
OBEY_TIMEOUT_S: Final = 5.0
REPLACE_PAUSE_S: Final = 0.5
"""Between the death of a worker that did not live long and the next one: no fork loop."""
RETRY_S: Final = 1.0
"""Until the next attempt, where there could be no other process."""

log = logging.getLogger("egress.supervisor")


class Supervisor:
    """One sandbox's gateway. Use as a context manager: leaving it stops the worker, keeps the last records, and lets the cell go."""

    def __init__(
        self,
        policy: SecurityPolicy,
        sandbox: str,
        audit_dir: Path,
        netd: Netd,
        firewall: Backend | None = None,
        link: LinkKind = "lo",
        *,
        settings: AuditSettings | None = None,
        metrics: Path | None = None,
        say: Callable[[str], object] = log.warning,
    ) -> None:
        """``netd``, whose imports run beside the caller's, is this object's from now on; ``say`` gets a line where the records are in trouble;
        ``metrics``: a socket to be made there. SetupError where no records can be kept, or there can be no such socket."""
        self._firewall: Backend | None = firewall
        self._link: LinkKind = link
        self._policy = policy
        self._sandbox = sandbox
        self.summary = Summary()
        self._netd = netd
        self._selector = selectors.DefaultSelector()
        self._scrapes = None if metrics is None else Scrapes(metrics, self._selector, self._metrics)
        try:
            self.log = open_log(audit_dir, settings, sandbox, say) if policy.audit.enabled else None
        except SetupError:
            if self._scrapes is not None:
                self._scrapes.close()
            raise
        self._keeper = Keeper(self.log, sandbox, self.summary, self._selector, say)
        self._stopping = False
        self._signals: Forwarding | None = None
        self._worker: WorkerProcess | None = None
        self._workers = 0
        self._say = say
        self._start_at = 0.0
        """The next worker, where the last attempt at one failed."""
        self.namespaces: dict[str, int] = {}
        self._listeners: list[Listener] = []

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the cell and start the worker; afterwards ``namespaces`` has the descriptors to enter it by. EgressError if it cannot be."""
        network = self._policy.network
        self._plan = build_plan(network, self._link)
        self._plan6 = build_plan(network, self._link, 6) if has_ipv6() else None
        cell = self._netd.open_cell(self._plan, self._plan6, self._firewall)
        self.namespaces = {name: cell.pop(name) for name in ("userns", "netns", "cell") if name in cell}
        sockets = {name: socket.socket(fileno=descriptor) for name, descriptor in cell.items()}
        self._bundle = Bundle(
            self._sandbox,
            network,
            Endpoint(self._policy.resolver_ip, 53),
            tuple(sockets[name] for name in ("listener", "listener6") if name in sockets),
            sockets.get("dns_udp"),
            sockets.get("dns_tcp"),
            self._keeper.ledger,
            self._keeper.feed,
            self._keeper.kept,
            sockets.get("nflog_refused"),
            sockets.get("nflog_allowed"),
            tally=self._keeper.tally,
        )
        self._listeners = [Listener(sock) for sock in self._bundle.listeners]
        take_turns_of(LONG_NS, alone=True)
        self._start_worker()  # whether its records can be kept or not: connections wait, and the command runs
        if self._scrapes is not None:
            import gateway.metrics  # noqa: F401 - while the worker starts; later it would hold up the records
        if self._worker is None or not self._worker.is_ready():
            raise SetupError("the worker did not start; its own message is above")
        self._keeper.start_upkeep()

    def swap(self, network: NetworkPolicy | None) -> int:
        """Put ``network`` in the place of the policy in force, for what runs already too: its generation. SetupError where this sandbox cannot
        take it or the kernel would not, and then what was in force still is."""
        policy = replace(self._policy, network=network)
        if policy.resolver_ip != self._policy.resolver_ip:
            raise SetupError(
                f"resolver={policy.resolver_ip}: a sandbox keeps its resolver, {self._policy.resolver_ip}; create another sandbox"
            )
        plan = build_plan(network, self._link, uplink=self._plan.uplink)
        plan6 = self._plan6 and build_plan(network, self._link, 6, uplink=self._plan6.uplink)
        if self._worker is not None:
            self._worker.tell([HOLD])
        try:
            cell = self._netd.swap_plans(self.namespaces["netns"], plan, plan6, self._firewall)
        except EgressError:
            self._obey([])  # what was in force
            raise
        self._policy, self._plan, self._plan6 = policy, plan, plan6
        dns = [socket.socket(fileno=cell[name]) for name in ("dns_udp", "dns_tcp") if name in cell]
        self._bundle = replace(self._bundle, policy=network, generation=self._bundle.generation + 1)
        if dns:
            self._bundle = replace(self._bundle, dns_udp=dns[0], dns_tcp=dns[1])
        self._obey(dns)
        return self._bundle.generation

    def wait(self, command: Command, terminal: Terminal) -> int:
        """Keep everything going until ``command`` ends; its exit status."""
        descriptor = os.pidfd_open(command.pid)
        ended: list[int] = []
        self._selector.register(descriptor, selectors.EVENT_READ, lambda: ended.append(command.finish()))
        self._signals = signals = Forwarding(command, terminal, self._signal_worker)
        self._selector.register(signals, selectors.EVENT_READ, signals.forward)
        try:
            while not ended:
                self.turn(None)
        finally:
            self._selector.unregister(signals)
            signals.end()
            self._selector.unregister(descriptor)
            os.close(descriptor)
        return ended[0]

    def close(self) -> None:
        """Stop the worker, write what is left to write, close everything. Safe to call twice."""
        self._stopping = True
        if self._worker is not None:
            self._keeper.prepare_to_close()
            self._stop_worker(self._worker)
        if self.log is not None and (waiting := sum(listener.waiting() for listener in self._listeners)):
            self.log.count_lost(waiting)  # nobody is left to decide on them
        self._keeper.close()
        if self.log is not None:
            self.summary.unwritten = self.log.lost
        while self.namespaces:
            os.close(self.namespaces.popitem()[1])
        self._netd.close(self._say)
        if self._scrapes is not None:
            self._scrapes.close()
        self._selector.close()
        if self._signals is not None:
            self._signals.restore()
            self._signals = None

    def watch(self, descriptor: int, act: Callable[[], object]) -> None:
        """Have ``turn`` call ``act`` whenever ``descriptor`` can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def unwatch(self, descriptor: int) -> None:
        """No more; nothing if it is not watched."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    # -- the worker

    def _replace_worker(self) -> None:
        """Start one, where there is none and what it hands over can be kept. Until then connections wait in the listeners' queues."""
        if self._worker is None and not self._stopping and self._keeper.ready and self._start_due_in() <= 0:
            self._start_worker()

    def _start_worker(self) -> None:
        """Or say why there can be none now, and when to try again."""
        try:
            self._keeper.renew()
            self._worker = WorkerProcess(self._bundle)
        except OSError as error:
            if not self._start_at:
                mend = "; raise pids.max or RLIMIT_NPROC" if error.errno == errno.EAGAIN else ""
                self._say(f"no worker can be started: {error.strerror}: new connections wait{mend}")
            self._start_at = time.monotonic() + RETRY_S
            return
        if self._start_at:
            self._start_at = 0.0
            self._say("a worker was started again")
        self._workers += 1
        self._selector.register(self._worker.pidfd, selectors.EVENT_READ, self._worker_died)

    def _start_due_in(self) -> float:
        """Seconds until another attempt is due; 0 where none has failed."""
        return max(0.0, self._start_at - time.monotonic()) if self._start_at else 0.0

    def _worker_died(self) -> None:
        """Reap it, write down what it left undecided, and put another in its place: the listeners' queues are still here."""
        started = self._reap_worker()
        if not self._stopping and time.monotonic() - started < REPLACE_PAUSE_S:
            time.sleep(REPLACE_PAUSE_S)
        self._replace_worker()

    def _reap_worker(self) -> float:
        """When it was started."""
        worker, self._worker = self._worker, None
        assert worker is not None, "it is heard of, and killed, once"  # noqa: S101
        self._selector.unregister(worker.pidfd)
        self.unwatch(worker.control.fileno())
        worker.reap()
        self._keeper.bury(self._bundle.generation)
        if self._bundle.refused is not None and self._bundle.allowed is not None:
            dropped = dropped_by(self._bundle.refused), dropped_by(self._bundle.allowed)
            self._bundle = replace(self._bundle, dropped=dropped)
        return worker.started

    def _signal_worker(self, number: int) -> None:
        """To the one that there is: a stopped one carries nothing, and is continued by the kernel if its parent ends."""
        if self._worker is not None:
            signal.pidfd_send_signal(self._worker.pidfd, number)

    def _stop_worker(self, worker: WorkerProcess) -> None:
        """Ask it to drain while its records are taken in; a worker that does not end is killed."""
        worker.stop()
        if not self._turn_until(lambda: self._worker is None, STOP_TIMEOUT_S):
            worker.kill()
            self._reap_worker()

    def _obey(self, dns: Sequence[socket.socket]) -> None:
        """Have the worker decide by the bundle's policy; one that does not say that it does is killed, and the next begins with it."""
        worker = self._worker
        if worker is None:
            return
        said: list[bytes] = []

        def hear() -> None:
            word = b""
            with contextlib.suppress(OSError):
                word = worker.control.recv(16)
            if word != READY:  # of one that took another's place, and that nobody waited for
                said.append(word)
                self._selector.unregister(worker.control)

        worker.tell(Orders(self._bundle.policy, self._bundle.generation).pieces(), dns)
        self._selector.register(worker.control, selectors.EVENT_READ, hear)
        self._turn_until(lambda: bool(said) or self._worker is not worker, OBEY_TIMEOUT_S)
        if said != [OBEYED] and self._worker is worker:
            worker.kill()
            self._reap_worker()
            self._replace_worker()

    # -- the loop

    def turn(self, timeout: float | None) -> None:
        """Wait for something to happen, and see to it; for ``timeout`` seconds at the most."""
        due, started = self._keeper.due_in(), time.monotonic()
        scrape_due = None if self._scrapes is None else self._scrapes.due_in()
        start_due = None if self._worker is not None or not self._start_at else self._start_due_in()
        wait = min((one for one in (due, scrape_due, start_due, timeout) if one is not None), default=None)
        for key, _ in self._selector.select(wait):
            if self._selector.get_map().get(key.fd) is not key:
                continue  # what came before it in this round, or a round within, has dealt with it
            act: Callable[[], object] = key.data
            act()
        if due is not None and time.monotonic() >= started + due:
            self._keeper.tick()
        if self._scrapes is not None:
            self._scrapes.tick()
        self._replace_worker()

    def _turn_until(self, happened: Callable[[], bool], within_s: float) -> bool:
        """Whether it does."""
        give_up = time.monotonic() + within_s
        while not happened() and (left := give_up - time.monotonic()) > 0:
            self.turn(left)
        if not happened():
            self.turn(0)  # it may not have been heard, where this process has much to do
        return happened()

    def _metrics(self) -> bytes:
        from gateway.metrics import Figures, text

        keeper = self._keeper
        return text(
            Figures(
                self._sandbox,
                keeper.tally.read(),
                keeper.ledger.undecided(),
                keeper.audited(),
                max(0, self._workers - 1),
                self._bundle.generation,
            )
        )


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 address that reaches beyond a link (proc(5), if_inet6: scope 0). A sandbox gets IPv6 only where the gateway
    has it: it would otherwise accept connections that it cannot carry, and clients would not fall back."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[3] == "00" for line in lines)
