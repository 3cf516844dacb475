"""The same bytes, in every way in which they can arrive: one and the same answer, or the test fails."""

from collections.abc import Iterator

from gateway.sniff import NeedMore, Refused, Sniffed, sniff

EVERY_BYTE = 500
"""Up to here every prefix is looked at; of longer inputs both ends, and a sample of the middle."""

LATER = (
    b"\x14\x03\x03\x00\x01\x01",  # change_cipher_spec, as clients in middlebox mode send it
    b"\x17\x03\x03\x00\x05early",
    b"\x16\x03\x01\x00\x02\x01\x00",  # another handshake message
    b"\x16",  # half a record header
    b"\x00",
    b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
)
"""What may follow the hello in later records, and must not change what was said of it."""


def prefixes(size: int) -> Iterator[int]:
    if size <= EVERY_BYTE:
        yield from range(1, size)
    else:
        yield from range(1, 100)
        yield from range(100, size - 20, size // 30)
        yield from range(size - 20, size)


def one_answer(data: bytes) -> Sniffed | NeedMore | Refused:
    """The answer to ``data``: whole, at every split, byte by byte, in every type of buffer, and with later records behind it."""
    whole = sniff(data)
    decided = False
    for end in prefixes(len(data)):
        seen = sniff(data[:end], scanned=0 if decided else end - 1)
        if isinstance(seen, NeedMore):
            assert not decided, f"{end} bytes: undecided again"
            assert seen.at_least >= 1
            if isinstance(whole, Sniffed):
                assert end + seen.at_least <= whole.consumed, f"{end} bytes: waits for more than is missing"
        else:
            assert seen == whole, f"{end} bytes: another answer"
            decided = True
        if not decided and (len(data) <= EVERY_BYTE or end % 7 == 0):
            assert sniff(data, scanned=end) == whole, f"split after {end}"
    if isinstance(whole, Sniffed):
        assert not decided or whole.consumed < len(data), "a proper prefix yields a name"
    for buffer in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert sniff(buffer) == whole, type(buffer)
        assert bytes(buffer) == data, "the buffer was changed"
    if not isinstance(whole, NeedMore):
        for later in LATER:
            assert sniff(data + later) == whole, f"followed by {later!r}"
    return whole


def looks(data: bytes) -> tuple[int, Sniffed | NeedMore | Refused]:
    """How often a reader looks that sleeps as long as it is told while ``data`` drips in, and what it reads in the end."""
    end = count = 1
    seen = sniff(data[:1])
    while isinstance(seen, NeedMore) and end + seen.at_least <= len(data):
        scanned = end
        end += seen.at_least
        count += 1
        seen = sniff(data[:end], scanned=scanned)
    return count, seen
