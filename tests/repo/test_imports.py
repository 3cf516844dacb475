"""What a command and its workers do not import: each library is waited for at every start, and held by each worker."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARRIES = "import gateway.cli.run, gateway.netd.server, gateway.launch, gateway.supervisor, gateway.view"
"""All that ``egress run`` imports in its own process."""
LIBRARY = "import gateway.attendant, gateway.worker"
NEVER = {
    "pyroute2": "netd's, after its fork",
    "iptc": "netd's, after its fork",
    "cryptography": "of the process that signs",
    "prometheus_client": "where metrics are asked for",
    "yaml": "where there is a policy file",
}


@pytest.mark.parametrize("imports", [CARRIES, LIBRARY])
def test_what_a_start_does_not_wait_for(imports: str) -> None:
    program = f"{imports}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = NEVER.keys() & done.stdout.split()
    assert not found, {name: NEVER[name] for name in found}
