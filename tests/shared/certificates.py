"""A certificate authority of the tests' own, and certificates of it: right, of another host, expired."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Writes into a folder, which no two share."""

    folder: Path

    @cached_property
    def certificate(self) -> Path:
        """Its own certificate, which whoever trusts it is given."""
        made = _builder("authority", _now() + DAY).public_key(self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return self._written("authority.pem", made, b"")

    def context(self, host: str = "127.0.0.1", expired: bool = False) -> ssl.SSLContext:
        """For a server, by a certificate of an address that has expired or not."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder("server", _now() + (-DAY if expired else DAY)).public_key(key.public_key())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        made = made.add_extension(names, critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._written("server.pem", made, private))
        return context

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    def _written(self, name: str, made: x509.CertificateBuilder, private: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(private + made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def _builder(subject: str, until: datetime.datetime) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name("authority"))
    return made.serial_number(x509.random_serial_number()).not_valid_before(until - 3 * DAY).not_valid_after(until)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
