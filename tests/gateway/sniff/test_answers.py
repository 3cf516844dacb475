"""Answers, told from each other: their statuses, where they end, and what cannot be told."""

import time

import pytest

from gateway.sniff.answers import MAX_ANSWER, MAX_STEPS, Answers
from gateway.sniff.http import MAX_LINE
from gateway.sniff.trailers import MAX_TRAILERS

SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"


def head(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


def hear(answer: bytes, size: int, bodiless: bool = False) -> tuple[bytes, bool, bool]:
    """What is known after ``answer`` came in pieces of ``size``: its status, whether all is there, whether it is lost."""
    answers = Answers()
    answers.expect(bodiless)
    status = b""
    for at in range(0, len(answer), size):
        said = answers.down(answer[at : at + size])
        status = status or said
    return status, answers.complete, answers.lost


WHOLE = {
    "a length": head(b"Content-Length: 5") + b"hello",
    "no body": head(b"content-length:0"),
    "blanks": head(b"X: \ty\t", b"Content-Length:   5  ") + b"hello",
    "a body that reads like an answer": head(b"Content-Length: %d" % len(SWITCHES)) + SWITCHES,
    "no reason": head(b"Content-Length: 0", line=b"HTTP/1.1 200"),
    "an empty reason": head(b"Content-Length: 0", line=b"HTTP/1.1 200 "),
    "HTTP/1.0": head(b"Content-Length: 5", line=b"HTTP/1.0 200 OK") + b"hello",
    "chunks": head(b"Transfer-Encoding: chunked") + b'5\r\nhello\r\n0a;x="y z"\r\n0123456789\r\n0\r\n\r\n',
    "padded sizes": head(b"Transfer-Encoding: chunked")
    + b"5  \r\nhello\r\n5\t; a = b ; c\t\r\nhello\r\n0 \r\n\r\n",
    "a long chunk": head(b"Transfer-Encoding: chunked") + b"000000000000005\r\nhello\r\n0\r\n\r\n",
    "trailers": head(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\nA: b\r\nChecksum:\r\n\r\n",
    "500 trailers": head(b"Transfer-Encoding: chunked") + b"0\r\n" + b"A: b\r\n" * 500 + b"\r\n",
    "a length behind a tab": head(b"Content-Length:\t5\t") + b"hello",
    "chunks of nothing": head(b"TRANSFER-ENCODING: CHUNKED") + b"0\r\n\r\n",
    "no content": head(line=b"HTTP/1.1 204 No Content"),
    "not modified": head(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified"),
    "after interim ones": head(line=b"HTTP/1.1 100 Continue") * 2
    + head(b"Link: x", line=b"HTTP/1.1 103 Early Hints")
    + head(b"Content-Length: 1")
    + b"x",
    "500 fields": head(*[b"a:"] * 499, b"Content-Length: 0"),
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
def test_an_answer_ends_where_its_framing_says(answer: bytes) -> None:
    expected = {b"204": b"204", b"304": b"304"}.get(answer[9:12], b"200")
    for size in (1, 2, 3, 13, len(answer)):
        assert hear(answer, size) == (expected, True, False), size
        assert hear(answer + b"H", size) == (expected, False, True), "more than is owed"
    for end in range(len(answer)):
        assert hear(answer[:end], len(answer))[1:] == (False, False), end


def test_the_answer_to_head_is_a_head() -> None:
    for fields in ((b"Content-Length: 5",), (b"Transfer-Encoding: chunked",), ()):
        for size in (1, 1000):
            assert hear(head(*fields), size, bodiless=True) == (b"200", True, False)
            assert hear(head(*fields) + b"hello", size, bodiless=True) == (b"200", False, True)


LOST = {
    "until the end": head(),
    "two lengths": head(b"Content-Length: 5", b"Content-Length: 5"),
    "a list of lengths": head(b"Content-Length: 5, 5"),
    "a signed length": head(b"Content-Length: +5"),
    "an endless length": head(b"Content-Length: " + b"1" * 19),
    "length and coding": head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "another coding": head(b"Transfer-Encoding: gzip, chunked"),
    "two codings": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunks of HTTP/1.0": head(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
    "a folded line": head(b"X: y", b" z", b"Content-Length: 0"),
    "a blank before the colon": head(b"Content-Length : 0"),
    "a line without colon": head(b"X", b"Content-Length: 0"),
    "a bare line feed": head(b"X: y\nContent-Length: 5", b"Content-Length: 0"),
    "a bare carriage return": head(b"X: y\rz", b"Content-Length: 0"),
    "501 fields": head(*[b"a:"] * 500, b"Content-Length: 0"),
    "a size that is none": head(b"Transfer-Encoding: chunked") + b"x\r\n",
    "a size with a sign": head(b"Transfer-Encoding: chunked") + b"+5\r\nhello\r\n",
    "an extension that is none": head(b"Transfer-Encoding: chunked") + b"5;x / HTTP/1.1\r\nhello\r\n",
    "a chunk that is longer": head(b"Transfer-Encoding: chunked") + b"5\r\nhello!\r\n0\r\n\r\n",
    "a size without end": head(b"Transfer-Encoding: chunked") + b"5;" + b"a" * MAX_LINE,
    "501 trailers": head(b"Transfer-Encoding: chunked") + b"0\r\n" + b"A: b\r\n" * 501 + b"\r\n",
    "a trailer that is none": head(b"Transfer-Encoding: chunked") + b"0\r\nHTTP/1.1 101 x\r\n\r\n",
    "trailers without end": head(b"Transfer-Encoding: chunked") + b"0\r\nA: " + b"b" * MAX_TRAILERS,
    "a length for a trailer": head(b"Transfer-Encoding: chunked") + b"0\r\nContent-Length: 5\r\n\r\n",
    "two answers": head(b"Content-Length: 0") * 2,
}


@pytest.mark.parametrize("answer", LOST.values(), ids=LOST)
def test_what_cannot_be_told_is_lost_for_good(answer: bytes) -> None:
    for size in (1, 7, len(answer)):
        assert hear(answer, size) == (b"200", False, True)
        assert hear(answer + WHOLE["a length"], size) == (b"200", False, True)


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-OpenSSH", b"HTTP/2.0 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 600 OK", b"\r\nHTTP/1.1 200"],
)
def test_what_is_no_answer_has_no_status(said: bytes) -> None:
    for size in (1, len(said)):
        assert hear(said, size) == (b"", False, True)


def test_a_status_is_known_before_its_head_is_whole() -> None:
    assert hear(b"HTTP/1.1 200 ", 1) == (b"200", False, False)
    assert hear(b"HTTP/1.1 101 ", 1) == (b"101", False, False)
    assert hear(b"HTTP/1.1 103 ", 1) == (b"", False, False)
    assert hear(SWITCHES, 1) == (b"101", False, True), "what follows is no HTTP"


def test_one_that_nobody_asked_for() -> None:
    answers = Answers()
    assert answers.complete
    assert answers.down(WHOLE["a length"]) == b""
    assert answers.lost


def test_a_request_before_the_last_is_answered() -> None:
    answer = WHOLE["a length"]
    for end in range(len(answer)):
        answers = Answers()
        answers.expect(False)
        answers.down(answer[:end])
        answers.expect(False)
        assert answers.lost
        assert answers.down(answer[end:] + SWITCHES) == b""


def test_one_after_another() -> None:
    answers = Answers()
    for _ in range(3):
        for answer in WHOLE.values():
            answers.expect(False)
            assert not answers.complete
            assert answers.down(answer)
            assert answers.complete


def test_what_is_held_is_bounded() -> None:
    answers = Answers()
    answers.expect(False)
    said = b"HTTP/1.1 200 OK\r\nX: "
    answers.down(said + b"x" * (MAX_ANSWER - len(said)))
    assert len(answers._held) == MAX_ANSWER
    answers.down(b"x")
    assert answers.lost and not answers._held


def test_steps_are_bounded() -> None:
    """By a buffer of nothing but the least chunks; more of them, in more buffers, are well."""
    answers = Answers()
    answers.expect(False)
    answers.down(head(b"Transfer-Encoding: chunked"))
    for _ in range(3):
        answers.down(b"1\r\nx\r\n" * (MAX_STEPS - 10))
    assert not answers.lost
    answers.down(b"1\r\nx\r\n" * (MAX_STEPS + 10))
    assert answers.lost


def test_a_head_that_drips_is_read_when_it_is_whole() -> None:
    """Looked at after each byte, its lines are not matched anew."""
    answers = Answers()
    answers.expect(False)
    said = head(*[b"a:" + b"b" * 100] * 450, b"Content-Length: 0")
    began = time.process_time()
    for at in range(len(said)):
        answers.down(said[at : at + 1])
    assert answers.complete
    assert time.process_time() - began < 10
