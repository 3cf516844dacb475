"""A line with gaps, filled in, is the line of the record that has those values."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.form import Form
from tests.audit.example import blocked, ended

TEXTS, OTHERS = ("timestamp", "src_ip", "flow"), ("src_port", "bytes_up", "duration_ms")


@pytest.mark.parametrize(
    "rule", ["default", "allow_out[0] 100%s.example", '"quoted" \\ {brace}', "a % b %% c", "ü"]
)
def test_what_is_written_out_once_is_as_it_was(rule: str) -> None:
    record = blocked(rule=rule)
    line = Form(record, texts=TEXTS, others=OTHERS).line(
        record["timestamp"], record["src_ip"], record["src_port"], record["flow"]
    )
    assert line == orjson.dumps(record) + b"\n"


@given(
    st.ip_addresses(),
    st.integers(0, 65535),
    st.integers(0, 2**53),
    st.floats(0, 2**40).map(lambda ms: round(ms, 3)),
)
def test_what_is_filled_in_is_as_json_has_it(ip: object, port: int, size: int, ms: float) -> None:
    record = ended() | {"src_ip": str(ip), "src_port": port, "bytes_up": size, "duration_ms": ms}
    line = Form(ended(), texts=TEXTS, others=OTHERS).line(
        record["timestamp"], ip, port, record["flow"], size, ms
    )
    assert orjson.loads(line) == record
    assert line == orjson.dumps(record) + b"\n"
