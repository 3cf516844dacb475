"""docs/metrics.md says what the code tells: each metric with its type and labels, the buckets, the example."""

import re
from pathlib import Path

import yaml

from audit.record import EndedBy, Phase
from gateway.keeper import Audited
from gateway.metrics import ALWAYS, Figures
from gateway.reasons import Reason
from gateway.scrapes import MAX_PATH_BYTES, MAX_SCRAPERS, SCRAPE_S
from gateway.tally import ACCEPTED, BOUNDS_US, CARRIED, Tally
from tests.gateway.test_metrics import families, figures, told

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_the_table_is_the_codes() -> None:
    rows = re.findall(r"^\| `(egress_\w+)` \| (\w+) \|(.*?)\| (.+) \|$", TEXT, re.MULTILINE)
    said = [(name, kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows]
    tally = Tally()
    tally.closed(EndedBy.CLIENT, Phase.RELAY, 1, 1)
    have = [
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"sandbox", "le"},
        )
        for family in families(figures(tally))
    ]
    assert said == have


def test_the_buckets_and_limits() -> None:
    said = re.search(r"^Buckets, in seconds: (.*)\.$", TEXT, re.MULTILINE)
    assert said is not None
    assert [float(word) for word in said[1].split(", ")] == [bound / 1e6 for bound in BOUNDS_US]
    always = re.search(r"gateway's own trouble \((.*?)\)", TEXT)
    assert always is not None
    assert set(re.findall(r"`(\w+)`", always[1])) == {str(reason) for _, reason in ALWAYS}
    assert f"{MAX_PATH_BYTES} bytes" in TEXT and f"each has {SCRAPE_S:.0f} s" in TEXT
    assert MAX_SCRAPERS == 8 and "Eight may ask at once" in TEXT


def test_the_example_is_what_such_a_gateway_tells() -> None:
    (block,) = re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    shown = [line for line in block.splitlines() if not line.startswith("$")]
    tally = Tally()
    tally.words[ACCEPTED] = 214
    tally.words[CARRIED] = 3
    for reason, times in ((Reason.ALLOWED_NAME, 211), (Reason.NO_ALLOW_ENTRY, 3)):
        for _ in range(times):
            tally.decided(reason, 1_000_000)
    for _ in range(208):
        tally.closed(EndedBy.UPSTREAM, Phase.RELAY, 700, 1400)
    now = Figures("agent-1", tally.read(), 0, Audited(0, 0, 0, 0, True), 0, 1)
    wanted = ("egress_connections", "egress_decisions")
    assert [line for line in told(now).splitlines() if line.startswith(wanted)] == shown


def test_the_configuration_is_yaml_and_the_alerts_are_about_what_there_is() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block)["scrape_configs"][0]["static_configs"]
    names = set(re.findall(r"\begress_\w+", TEXT))
    tally = Tally()
    tally.closed(EndedBy.CLIENT, Phase.RELAY, 1, 1)
    told_of = {sample.name for family in families(figures(tally)) for sample in family.samples}
    histograms = {family.name for family in families(figures()) if family.type == "histogram"}
    assert names - {"egress_connections", "egress_decisions"} <= told_of | histograms
