"""What metrics cost: ``python -m bench.metrics [RUNS]``. A connection, on the worker's loop; a scrape, and the import of what answers it, in the
supervisor. Interleaved, CPU time, medians.
"""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from audit.record import EndedBy, Phase
from bench.installed import insist
from bench.machine import keep
from gateway.keeper import Audited
from gateway.metrics import Figures, text
from gateway.reasons import Reason
from gateway.tally import Tally

CONNECTIONS = 2000
IMPORTED = "import time; from gateway import keeper; began = time.process_time_ns(); import gateway.metrics; print(time.process_time_ns() - began)"


def counted(tally: Tally) -> None:
    """As the path counts an allowed connection from accept to end, the clock's readings for it included; accept and end have theirs anyway. What
    ten count is told at once, as at the end of a busy turn."""
    for number in range(CONNECTIONS):
        tally.accepted()
        begun_ns = time.monotonic_ns()
        tally.decided(Reason.ALLOWED_NAME, time.monotonic_ns() - begun_ns)
        tally.carried(1)
        tally.connected(time.monotonic_ns() - begun_ns)
        tally.closed(EndedBy.UPSTREAM, Phase.RELAY, 700, 1400)
        tally.carried(0)
        if number % 10 == 0:
            tally.flush()


def uncounted(tally: Tally) -> None:
    """The loop itself."""
    for _ in range(CONNECTIONS):
        pass


def scraped(tally: Tally) -> None:
    """Of a gateway that has met every reason and every end."""
    text(Figures("agent-1", tally.read(), 0, Audited(1, 0, 0, 0, True), 0, 1))


def main() -> None:
    """Measure, print, keep."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 101
    tally = Tally()
    for reason in Reason:
        tally.refused(reason)
    for ended_by in EndedBy:
        for phase in Phase:
            tally.closed(ended_by, phase, 1, 1)
    tally.defer(lambda flush: None)
    gc.disable()
    acts: tuple[Callable[[Tally], None], ...] = (uncounted, counted, scraped)
    took: dict[Callable[[Tally], None], list[int]] = {act: [] for act in acts}
    for _ in range(runs):
        for act in acts:
            began = time.process_time_ns()
            act(tally)
            took[act].append(time.process_time_ns() - began)
    imports = [
        int(subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, check=True).stdout)
        for _ in range(9)
    ]
    loop, connection, scrape = (statistics.median(took[act]) for act in acts)
    figures = {
        "runs": runs,
        "us_a_connection": round((connection - loop) / CONNECTIONS / 1000, 2),
        "us_a_scrape": round(scrape / 1000),
        "bytes_a_scrape": len(text(Figures("agent-1", tally.read(), 0, Audited(1, 0, 0, 0, True), 0, 1))),
        "ms_import": round(statistics.median(imports) / 1e6, 1),
    }
    print(figures)
    print(keep("metrics", figures))


if __name__ == "__main__":
    insist("bench.metrics")
    main()
