"""What may be asked of netd, and what it answers: typed values, as JSON, one a SOCK_SEQPACKET message. Pure."""

import msgspec

from rules.backend import Backend
from rules.plan import Plan

MAX_MESSAGE_BYTES = 128 * 1024
"""What the socket carries. A longer request, with sets of thousands of networks, comes in a file (memfd_create(2)) that the message brings."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024
MAX_REASON_CHARACTERS = 2000


class OpenCell(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Make a cell: a network namespace with the link's far end, the plan's rules and the sockets that the gateway listens on."""

    plan: Plan
    """IPv4."""
    plan6: Plan | None = None
    """IPv6; without it the cell has none."""
    firewall: Backend | None = None
    """What sets the rules; None is whatever works here."""


class SwapPlans(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Put other plans in force in a cell that stands, of the same link and families. The message brings a descriptor of its ``netns``."""

    plan: Plan
    plan6: Plan | None = None
    firewall: Backend | None = None


class CloseCell(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Take a cell down: whoever is left in it is killed, its uplink goes. The message brings a descriptor of its ``netns``."""


class CellOpened(msgspec.Struct, frozen=True, tag=True):
    """The cell stands. The message carries descriptors in the order of ``descriptors``."""

    descriptors: tuple[str, ...]
    """Of ``userns`` (only where netd is not root), ``netns``, where commands run, ``cell``, where that is another, ``nflog_refused``,
    ``nflog_allowed``, ``listener``, ``listener6`` (with a ``plan6``), ``dns_udp`` and ``dns_tcp`` (where a plan has a resolver)."""


class PlansSwapped(msgspec.Struct, frozen=True, tag=True):
    """They are in force. The message carries descriptors in the order of ``descriptors``."""

    descriptors: tuple[str, ...]
    """Of ``dns_udp`` and ``dns_tcp`` where there is a resolver now and was none."""


class CellClosed(msgspec.Struct, frozen=True, tag=True):
    """The cell is gone, but for what descriptors still hold of it."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Nothing was done. ``privilege`` tells a missing capability from everything else."""

    message: str
    privilege: bool = False
    in_doubt: bool = False
    """Something was, and could not be taken back."""


Request = OpenCell | SwapPlans | CloseCell
Answer = CellOpened | PlansSwapped | CellClosed | Failed

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(OpenCell | SwapPlans | CloseCell)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(CellOpened | PlansSwapped | CellClosed | Failed)


def encode(message: Request | Answer) -> bytes:
    """One message as it goes over the socket. Why something was not done may quote what was asked, at any length: so much of it."""
    if isinstance(message, Failed):
        message = msgspec.structs.replace(message, message=message.message[:MAX_REASON_CHARACTERS])
    return _encoder.encode(message)


def decode_request(raw: bytes) -> Request:
    """``msgspec.MsgspecError`` for anything that is not a request."""
    return _requests.decode(raw)


def decode_answer(raw: bytes) -> Answer:
    """``msgspec.MsgspecError`` for anything that is not an answer."""
    return _answers.decode(raw)
