"""``egress doctor`` says what is so, for root and for an ordinary user."""

import json
import time

import pytest

from tests.lab.lab import Lab
from tests.lab.sandboxed import egress_for, in_session, new_audit_dir

pytestmark = pytest.mark.root

CHROOTED = ["unshare", "--mount", "sh", "-ec", 'mount --rbind / "$1"; exec chroot "$@"', "sh", "/mnt"]
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_a_host_that_can_enforce(lab: Lab, starter: int | None) -> None:
    env = {"EGRESS_AUDIT_DIR": str(new_audit_dir(lab, starter))}
    done = lab.run([*egress_for(starter), "doctor", "--json"], uid=starter, env=env)
    findings = {found["what"]: found for found in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done
    assert all(found["ok"] for found in findings.values() if found["needed"])
    assert findings["cell"]["said"].endswith("an ordinary user") is (starter is not None)
    for word in ("--firewall legacy", "--firewall nft"):
        assert word in findings["firewall"]["said"]
    assert "ran in it as uid 65534" in findings["sandbox"]["said"]
    assert {"capabilities", "wall", "leftovers"} <= findings.keys()
    assert ("uplink" in findings) is (starter is None)
    if starter is None:
        assert "and an uplink for IPv4" in findings["cell"]["said"]
        assert findings["uplink"]["said"].startswith("what is allowed got through")


@pytest.mark.usefixtures("quiet_lab")
def test_nothing_leaves_the_host(lab: Lab) -> None:
    """What is sent to see whether it passes goes through the host and no further."""
    done = lab.run([*egress_for(None), "doctor"])
    assert done.returncode == 0, done
    assert not lab.capture.beyond()
    assert lab.capture.lost() == 0


@pytest.mark.parametrize(("verb", "status"), [(["doctor"], 1), (["run", "--", "true"], 77)])
def test_without_user_namespaces_the_mend_is_named(lab: Lab, verb: list[str], status: int) -> None:
    """In a chroot there are none, for anybody but root."""
    try:
        egress_for(65534)
    except LookupError as error:
        pytest.skip(str(error))
    argv = [*CHROOTED, *AS_NOBODY, *map(str, egress_for(65534)), *verb]
    done = lab.run(argv, env={"EGRESS_AUDIT_DIR": str(new_audit_dir(lab, 65534))}, cwd="/")
    assert done.returncode == status, done
    assert (
        "a chroot, or a container's own filter, does that): run egress as root" in done.stdout + done.stderr
    )


def test_records_that_cannot_be_kept(lab: Lab) -> None:
    done = lab.run([*egress_for(None), "doctor"], env={"EGRESS_AUDIT_DIR": "/proc/no/such"})
    assert done.returncode == 1
    assert "--audit-dir" in done.stdout
    assert "no sandbox can be run here by this user: see records" in done.stderr


def test_a_user_without_a_home(lab: Lab) -> None:
    stranger = 54321  # of whom no passwd file knows
    try:
        egress = egress_for(stranger)
    except LookupError as error:
        pytest.skip(str(error))
    argv = [
        "setpriv",
        f"--reuid={stranger}",
        f"--regid={stranger}",
        "--clear-groups",
        "env",
        "--ignore-environment",
    ]
    done = lab.run([*argv, "PATH=/usr/bin:/bin", *egress, "doctor"], cwd="/")
    assert done.returncode == 1
    assert "FAILS   records: this user has no home directory" in done.stdout
    assert "see records" in done.stderr or ", records" in done.stderr


def test_a_reader_that_has_seen_enough(lab: Lab) -> None:
    script = " ".join(["set -o pipefail;", *map(str, egress_for(None)), "doctor | head -n 1"])
    done = lab.run(["bash", "-c", script])
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("ok      system: Linux")


def test_nothing_is_left(lab: Lab) -> None:
    """Its cell has no name, so it ends with the last process and descriptor."""
    with lab.popen([*egress_for(None), "doctor"]) as process:
        process.communicate(timeout=40)
    give_up = time.monotonic() + 15
    while left := in_session(process.pid):
        assert time.monotonic() < give_up, left
        time.sleep(0.02)
