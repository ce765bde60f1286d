"""Certificates as an operator makes them, with the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a directory of its own; ``certificate`` is what others are told to trust."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        home.mkdir(parents=True)
        self.certificate = home / "ca.pem"
        self._key = home / "ca.key"
        subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", *_new_key(self._key)]
        _openssl("req", "-x509", *subject, "-out", str(self.certificate))

    def issue(self, name: str, *, names: str = "", days: int = 2) -> tuple[Path, Path]:
        """Certificate and key of ``name``, valid for ``names`` as in ``DNS:localhost,IP:127.0.0.1``."""
        certificate, key, request = (self.home / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        _openssl("req", "-new", "-subj", f"/CN={name}", "-nodes", *_new_key(key), "-out", str(request))
        extensions = self.home / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n" if names else "basicConstraints=CA:FALSE\n")
        signing = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial", "-days", str(days)]
        into = ["-extfile", str(extensions), "-out", str(certificate)]
        _openssl("x509", "-req", "-in", str(request), *signing, *into)
        return certificate, key


def encrypted(key: Path, passphrase: str) -> Path:
    """That key again, which now asks for a passphrase."""
    found = key.with_suffix(".locked")
    _openssl("pkey", "-in", str(key), "-aes256", "-passout", f"pass:{passphrase}", "-out", str(found))
    return found


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
