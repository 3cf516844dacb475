"""Who may have which link, and what a process may."""

import os
import subprocess
import sys

import pytest

from gateway.errors import PrivilegeError
from gateway.privilege import check_link, has_net_admin, usual_link
from rules.link import LinkKind
from tests.lab.lab import ROOT


@pytest.mark.parametrize(("uid", "link"), [(0, "veth"), (1000, "lo")])
def test_the_best_that_a_user_can_have(monkeypatch: pytest.MonkeyPatch, uid: int, link: LinkKind) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert usual_link() == link
    check_link(link)
    check_link("lo")


@pytest.mark.parametrize("link", ["veth", "iface"])
def test_what_an_ordinary_user_cannot_have(monkeypatch: pytest.MonkeyPatch, link: LinkKind) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match=f"the {link} link needs root: .* the lo link") as caught:
        check_link(link)
    assert caught.value.exit_code == 77


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to give a capability up")
@pytest.mark.parametrize(("options", "said"), [([], "True"), (["--bounding-set=-net_admin"], "False")])
def test_what_a_process_may_is_asked_of_the_kernel(options: list[str], said: str) -> None:
    code = "from gateway.privilege import has_net_admin; print(has_net_admin())"
    argv = ["setpriv", *options, sys.executable, "-c", code]
    assert subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip() == said


def test_nobody_who_is_not_root_may() -> None:
    assert has_net_admin() is (os.geteuid() == 0)
