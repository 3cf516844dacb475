"""What a ``Sandbox`` and the process that attends to it say to each other: typed values, as JSON, one a SOCK_SEQPACKET message. Pure."""

from typing import Final

import msgspec

from rules.link import LinkKind

MAX_BYTES: Final = 128 * 1024
"""Of a message; a longer one comes in a file (memfd_create(2)) that ``ENCLOSED`` brings."""
ENCLOSED: Final = b"enclosed"
"""Instead of one that is too long, with a policy of thousands of networks."""
MAX_DESCRIPTORS: Final = 4


class Create(msgspec.Struct, frozen=True, tag=True):
    """Make the sandbox. First message, once."""

    policy: dict[str, object]
    """``SecurityPolicy.to_dict()``."""
    name: str
    audit_dir: str | None
    link: LinkKind | None
    """None is the best that this user can have."""
    binds: tuple[str, ...]
    user: str | None
    metrics: str | None = None


class Created(msgspec.Struct, frozen=True, tag=True):
    """It stands."""

    link: LinkKind
    audit_dir: str
    home: str


class Run(msgspec.Struct, frozen=True, tag=True):
    """Start a command. The message brings four descriptors: the command's own channel, then its standard three."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    cwd: str | None
    user: str | None
    timeout_s: float | None = None
    """Then it is killed, whether somebody waits for it or not."""


class Update(msgspec.Struct, frozen=True, tag=True):
    """Put another policy in force, for what runs already too."""

    network: dict[str, object] | None
    """``NetworkPolicy.to_dict()``; None is full egress."""
    number: int
    """Of the errand, from 1. Who asks may be interrupted while it waits: the answer that comes after all is then no other errand's."""


class Updated(msgspec.Struct, frozen=True, tag=True):
    """It is in force."""

    generation: int
    number: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The command has ended: the last message on its channel."""

    exit_code: int
    timed_out: bool = False
    """Whether it was killed because its time was up."""


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """It could not be. ``kind`` is the name of a class of ``gateway.errors``."""

    kind: str
    message: str
    number: int = 0
    """Of the ``Update`` that it answers; 0 for whatever else."""


class Kill(msgspec.Struct, frozen=True, tag=True):
    """End the command, on whose channel it is said, or the whole sandbox."""


class Killed(msgspec.Struct, frozen=True, tag=True):
    """The sandbox is gone: the last message."""

    allowed: int
    blocked: int


Errand = Create | Run | Update | Kill
Answer = Created | Updated | Ended | Trouble | Killed

_encoder = msgspec.json.Encoder()
_errands: msgspec.json.Decoder[Errand] = msgspec.json.Decoder(Create | Run | Update | Kill)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Created | Updated | Ended | Trouble | Killed)


def encode(message: Errand | Answer) -> bytes:
    """One message as it goes over the socket."""
    return _encoder.encode(message)


def decode_errand(raw: bytes) -> Errand:
    """``msgspec.MsgspecError`` for anything that is none."""
    return _errands.decode(raw)


def decode_answer(raw: bytes) -> Answer:
    """``msgspec.MsgspecError`` for anything that is none."""
    return _answers.decode(raw)
