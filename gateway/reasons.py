"""Every word that a record's ``reason`` may be: one published list (docs/audit.md), shared by sniffer, decision and session."""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why an attempt was allowed or blocked. The values are public: a new one may be added, none changes its meaning."""

    __hash__ = str.__hash__  # an enum's own is written in Python, and each connection asks for it

    # allowed
    ALLOWED_ADDRESS = "allowed_address"
    """An IP or CIDR entry of ``allow_out`` holds the address."""
    ALLOWED_NAME = "allowed_name"
    """A name entry of ``allow_out`` holds the name, and the name was bound where that was needed."""
    DEFAULT_ALLOW = "default_allow"
    """Nothing in the policy speaks of the destination."""

    # blocked by the policy
    FLOOR = "floor"
    """An address that no policy can allow: metadata, loopback, link-local, multicast, the host itself."""
    DENIED_ADDRESS = "denied_address"
    """A narrower IP or CIDR entry of ``deny_out`` holds the address."""
    DENIED_NAME = "denied_name"
    """A name entry of ``deny_out`` holds the name."""
    NO_ALLOW_ENTRY = "no_allow_entry"
    """``deny_out`` holds everything (``0.0.0.0/0`` or ``::/0``) and no entry of ``allow_out`` fits."""
    ECH = "ech"
    """The hello offers Encrypted Client Hello, and the policy says ``ech="refuse"``."""

    # blocked because no name could be read where a name would decide
    NO_HELLO = "no_hello"
    """The client sent nothing, or not enough, before the deadline."""
    CLIENT_CLOSED = "client_closed"
    """The client closed, or reset, before its first message was complete."""
    NOT_TLS_NOT_HTTP = "not_tls_not_http"
    """The first bytes are neither a TLS ClientHello nor an HTTP/1 request."""
    BAD_TLS = "bad_tls"
    """A TLS ClientHello that breaks RFC 8446, RFC 5246 or RFC 6066."""
    BAD_HTTP = "bad_http"
    """An HTTP head that breaks RFC 9110 or RFC 9112, or a form that is never passed on (CONNECT, HTTP/2, HTTP/0.9)."""
    BAD_NAME = "bad_name"
    """A server name or Host that is not a hostname, an IP literal included."""
    NO_NAME = "no_name"
    """A whole ClientHello without server_name."""
    TOO_LONG = "too_long"
    """The first message is longer than the gateway reads."""
    TOO_MANY_READS = "too_many_reads"
    """The first message came in more pieces than the gateway reads."""
    ESNI = "esni"
    """The hello carries the withdrawn encrypted_server_name extension (0xffce)."""
    PORT_MISMATCH = "port_mismatch"
    """The port in Host is not the port that was dialled."""
    BAD_QUERY = "bad_query"
    """A DNS message that is no plain question for one kind of data: malformed, several questions, ANY, a zone transfer, a
    type without meaning, another class."""
    SINKHOLE = "sinkhole"
    """A connection to the address that guarded DNS gives for names that are not allowed, in a protocol that shows
    no name."""

    # blocked while the name was bound
    RESOLVE_FAILED = "resolve_failed"
    """The name has no usable answer in DNS."""
    RESOLVE_TIMEOUT = "resolve_timeout"
    """The resolver did not answer in time."""
    FORBIDDEN_ANSWER = "forbidden_answer"
    """Every address of the name lies in the floor, or in a private range that no IP entry allows."""

    # refused or dropped by the kernel for what the packet is
    FORGED_SOURCE = "forged_source"
    """A packet from an address that is not the sandbox's."""
    NOT_CARRIED = "not_carried"
    """The policy has nothing against it, but it cannot be carried: ``lo`` carries TCP and DNS; a hop limit ends here; a routing header is on it."""
    FLOOD = "flood"
    """More packets at once than are told apart; each is counted."""

    # blocked by the gateway's own state
    LIMIT = "limit"
    """A cap on undecided or open connections was reached."""
    INTERNAL_ERROR = "internal_error"
    """An unexpected error on the way to the decision: refused, and logged."""
    WORKER_DIED = "worker_died"
    """The worker ended before it decided; written by the process that survived it."""
    SHUTDOWN = "shutdown"
    """The gateway was stopping before the decision."""


ALLOWING: Final = frozenset((Reason.ALLOWED_ADDRESS, Reason.ALLOWED_NAME, Reason.DEFAULT_ALLOW))
"""Every other one blocks."""
