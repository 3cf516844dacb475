"""Queries that are passed on as they are, where the policy asks for it.

A query leaves from a fresh socket, so with a random port, under a random id; only an answer from the resolver with that id and that question is
handed back, under the sandbox's own id and spelling.
"""

import os
from functools import partial

from gateway.dns.guard import MIN_QUERY_BYTES, QR, question_end
from gateway.flow import Endpoint
from gateway.net.asking import by_tcp, by_udp
from gateway.net.pace import Pace


async def pass_on(query: bytes, resolver: Endpoint, pace: Pace, *, tcp: bool) -> bytes:
    """The resolver's answer to ``query``, over the same transport. OSError or EOFError; the caller sets the deadline."""
    ours = os.urandom(2) + query[2:]
    if not tcp:
        return _as_asked(query, await by_udp(ours, resolver, pace, partial(_answer, ours)))
    answer = await by_tcp(ours, resolver, pace)
    if not _answers(ours, answer):
        raise EOFError("that was no answer to the query")
    return _as_asked(query, answer)


def _answer(query: bytes, answer: bytes) -> bytes | None:
    return answer if _answers(query, answer) else None


def _answers(query: bytes, answer: bytes) -> bool:
    """Whether ``answer`` is one, to this query: id and question are what a forger has to guess (RFC 5452).

    Some servers spell the question in their own way, and some leave it out of an error.
    """
    if len(answer) < MIN_QUERY_BYTES or not answer[2] & QR or answer[:2] != query[:2]:
        return False
    if _without_question(answer):
        return bool(answer[3] & 0xF)
    end = question_end(query)
    if end == MIN_QUERY_BYTES:  # passed on as it was, whatever it is: there is only the id to go by
        return True
    return (
        answer[MIN_QUERY_BYTES : end - 4].lower() == query[MIN_QUERY_BYTES : end - 4].lower()
        and answer[end - 4 : end] == query[end - 4 : end]
    )


def _without_question(answer: bytes) -> bool:
    return answer[4:6] == b"\0\0"


def _as_asked(query: bytes, answer: bytes) -> bytes:
    """Under the sandbox's own id, and with its own spelling of the question, which some resolvers check."""
    if _without_question(answer):
        return query[:2] + answer[2:]
    end = question_end(query)
    return query[:2] + answer[2:MIN_QUERY_BYTES] + query[MIN_QUERY_BYTES:end] + answer[end:]
