"""Certificates as an operator makes them, with the openssl program."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

Days = tuple[int, int]


class Authority:
    """A certificate authority in a directory of its own; ``certificate`` is what others are told to trust.

    A ``plain`` one is what ``openssl req -x509`` makes without more words.
    """

    def __init__(self, home: Path, name: str, *, plain: bool = False) -> None:
        self.home = home
        home.mkdir(parents=True)
        self.certificate = home / "ca.pem"
        self._key = home / "ca.key"
        subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", *_new_key(self._key)]
        usage = [] if plain else ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        _openssl("req", "-x509", *subject, *usage, "-out", str(self.certificate))

    def issue(
        self, name: str, *, names: str = "", expired: bool = False, days: Days | None = None
    ) -> tuple[Path, Path]:
        """Certificate and key of ``name``, valid for ``names`` as in ``DNS:localhost,IP:127.0.0.1``.

        From today on, or ``days``, of which today is 0.
        """
        certificate, key, request = (self.home / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        _openssl("req", "-new", "-subj", f"/CN={name}", "-nodes", *_new_key(key), "-out", str(request))
        extensions = self.home / f"{name}.ext"
        also = f"subjectAltName={names}" if names else "basicConstraints=CA:FALSE"
        extensions.write_text(f"{also}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        into = ["-extfile", str(extensions), "-out", str(certificate)]
        if expired or days is not None:
            dates = ("20200101000000Z", "20200102000000Z") if days is None else (_in(days[0]), _in(days[1]))
            self._issue_of(dates, request, into)
            return certificate, key
        signing = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial", "-days", "2"]
        _openssl("x509", "-req", "-in", str(request), *signing, *into)
        return certificate, key

    def again(self, extensions: str) -> Path:
        """The authority's own certificate once more, from the same key, with these extensions."""
        (self.home / "ca.ext").write_text(extensions)
        signing = ["-in", str(self.certificate), "-signkey", str(self._key), "-days", "2", "-clrext"]
        found = self.home / "ca-again.pem"
        _openssl("x509", *signing, "-extfile", str(self.home / "ca.ext"), "-out", str(found))
        return found

    def _issue_of(self, dates: tuple[str, str], request: Path, into: list[str]) -> None:
        """With dates: newer versions of openssl take no negative number of days."""
        (self.home / "index.txt").touch()
        (self.home / "serial").write_text("01\n")
        configuration = self.home / "ca.cnf"
        configuration.write_text(
            "[ca]\ndefault_ca = it\n[it]\n"
            f"database = {self.home}/index.txt\nserial = {self.home}/serial\nnew_certs_dir = {self.home}\n"
            "default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n"
        )
        within = ["-startdate", dates[0], "-enddate", dates[1]]
        signing = ["-cert", str(self.certificate), "-keyfile", str(self._key), "-config", str(configuration)]
        _openssl("ca", "-batch", "-notext", "-in", str(request), *within, *signing, *into)


def _in(days: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y%m%d%H%M%SZ}"


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
