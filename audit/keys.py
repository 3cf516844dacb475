"""The key that closed segments are signed with: Ed25519, made at its first use, never inside the audit directory.

Whoever holds the private half can make records look genuine. So the process that forks workers never reads it: signing is done by a child that ends.
"""

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from audit import directories
from audit.files import KeyTrouble as KeyTrouble

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE: Final = "audit.pem"
PUBLIC: Final = "audit-*.pub"
ID_DIGITS: Final = 16


def prepare(keys: Path, audit: Path) -> None:
    """Make the directory (0700), if it is not there. KeyTrouble where it cannot be, lies inside the audit directory, or others can change it."""
    place, records = Path(os.path.realpath(keys)), Path(os.path.realpath(audit))
    if place == records or records in place.parents:
        raise KeyTrouble(f"{keys} lies inside the audit directory: name another with EGRESS_KEY_DIR")
    try:
        directories.make(keys)
    except OSError as error:
        raise KeyTrouble(f"{keys}: {error.strerror}; name another with EGRESS_KEY_DIR") from error
    _public_halves(keys)


def _public_halves(keys: Path) -> list[Path]:
    """Of every key that was ever in use in ``keys``. KeyTrouble where others can put in one that is believed."""
    try:
        if not keys.is_dir():
            return []
        found = sorted(keys.glob(PUBLIC))
        for path, what in ((keys, "the key directory"), *((path, "the key") for path in found)):
            for said in directories.strangers(path, what):
                raise KeyTrouble(said)
    except OSError as error:
        raise KeyTrouble(f"{error.filename}: {error.strerror}") from error
    return found


def private_key(keys: Path) -> "Ed25519PrivateKey":
    """The key in ``keys``, made now if there is none. KeyTrouble."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = keys / PRIVATE
    try:
        if not path.exists():
            _make(path)
        status = path.stat()
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid not in (0, os.geteuid()):
            raise KeyTrouble(
                f"{path} is open to others: chmod 600 {path}, and rotate it if they may have read it"
            )
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyTrouble(f"{path} holds no Ed25519 key: move it away, and another is made")
        _publish(keys, key.public_key())
    except OSError as error:
        raise KeyTrouble(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise KeyTrouble(f"{path} holds no key: move it away, and another is made") from error
    return key


def _make(path: Path) -> None:
    """All at once, and once: of several processes that find none, one makes it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = _draft(path, pem, 0o600)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _publish(keys: Path, key: "Ed25519PublicKey") -> None:
    path = keys / f"audit-{key_id(key)}.pub"
    if not path.exists():
        _draft(path, public_pem(key), 0o644).replace(path)
        directories.sync(keys)  # the private half as well: what it signs must not outlive it


def _draft(path: Path, text: bytes, mode: int) -> Path:
    """A file that has it, on the disk itself, to be called ``path``. OSError, and nothing is left."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        draft.unlink()
        raise
    return draft


def public_pem(key: "Ed25519PublicKey") -> bytes:
    """As ``openssl pkey -pubout`` writes it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: "Ed25519PublicKey") -> str:
    """A short name for it: the first digits of the raw key's SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:ID_DIGITS]


def load_public(path: Path) -> "Ed25519PublicKey":
    """From a PEM file. KeyTrouble."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise KeyTrouble(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise KeyTrouble(f"{path} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyTrouble(f"{path} holds no Ed25519 key")
    return key


def public_keys(keys: Path) -> dict[str, "Ed25519PublicKey"]:
    """Every key that was ever in use in ``keys``, by its id. KeyTrouble."""
    loaded = [load_public(path) for path in _public_halves(keys)]
    return {key_id(key): key for key in loaded}


def import_cryptography() -> None:
    """Now, rather than when there is something to sign: it takes some 20 ms."""
    import cryptography.hazmat.primitives.asymmetric.ed25519
    import cryptography.hazmat.primitives.serialization  # noqa: F401 - that is all
