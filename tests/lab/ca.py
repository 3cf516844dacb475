"""The lab's certificate authority: one root, and a leaf for any name, made when it is first asked for."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=2)


class CertificateAuthority:
    """Signs with a P-256 key that never leaves the process. All leaves share one key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab root")])
        self._root = self._sign(self._name, self._key, ca=True)
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def root_pem(self) -> bytes:
        """What a client trusts."""
        return self._root.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str, scratch: Path) -> ssl.SSLContext:
        """A server context whose certificate names ``host`` alone; ``scratch`` is where it may write."""
        known = self._contexts.get(host)
        if known is None:
            known = self._contexts[host] = self._load(host, scratch)
        return known

    def leaf_pem(self, host: str) -> bytes:
        """Certificate, chain and private key of ``host``, for servers that are not Python."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        leaf = self._sign(name, self._leaf_key, ca=False, host=host)
        key = self._leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return leaf.public_bytes(serialization.Encoding.PEM) + self.root_pem + key

    def _load(self, host: str, scratch: Path) -> ssl.SSLContext:
        path = scratch / "leaf.pem"
        path.touch(mode=0o600)
        path.write_bytes(self.leaf_pem(host))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        path.unlink()
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, host: str | None = None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if host is not None:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            builder = builder.add_extension(usage, critical=False)
        else:
            usage_of_root = x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage_of_root, critical=True)
        return builder.sign(self._key, hashes.SHA256())
