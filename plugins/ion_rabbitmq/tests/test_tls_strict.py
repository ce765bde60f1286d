"""What Python asks of certificates from 3.13 on, without a broker: a handshake as strict as that, under any version."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from on_rabbit import settings

from ion_core.errors import ConfigError
from ion_rabbitmq.tls import refusal
from tests.support.certificates import Authority

README = Path(__file__).parent.parent / "README.md"
Files = tuple[Path, Path]


def strictly_refused(trusted: Path, server: Files) -> ssl.SSLCertVerificationError | None:
    """Of a handshake with a server of that certificate and key."""
    ours, theirs = socket.socketpair()
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(*server)

    def serve() -> None:
        with suppress(OSError), listening.wrap_socket(theirs, server_side=True):
            pass

    thread = Thread(target=serve)
    thread.start()
    strict = ssl.create_default_context(cafile=trusted)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        with strict.wrap_socket(ours, server_hostname="localhost"):
            return None
    except ssl.SSLCertVerificationError as error:
        return error
    finally:
        ours.close()
        thread.join()
        theirs.close()


async def said_of(error: ssl.SSLCertVerificationError | None, trusted: Path | None) -> str:
    assert error is not None
    found = await refusal(settings("amqps://ion:x@localhost:5671/", ca_file=trusted), error)
    assert isinstance(found, ConfigError)
    return str(found)


async def test_an_authority_without_key_usage_is_told_how_it_is_reissued(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "Plain", plain=True)
    server = authority.issue("server", names="DNS:localhost")
    said = await said_of(strictly_refused(authority.certificate, server), authority.certificate)
    assert "CA cert does not include key usage extension" in said
    assert f"Issue the authority's certificate in messaging.ca_file ({authority.certificate}) anew" in said
    assert "with its key and keyUsage=critical,keyCertSign,cRLSign" in said
    assert "Set messaging.ca_file" not in said, "it is set, and to the right one"


def test_reissued_as_the_readme_has_it_the_authority_is_trusted_and_what_it_issued_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "Plain", plain=True)
    server = authority.issue("server", names="DNS:localhost")
    assert strictly_refused(authority.certificate, server) is not None
    [command] = re.findall(r"```sh\n(printf [^`]*)```", README.read_text())
    subprocess.run(["sh", "-euc", command], cwd=authority.home, check=True, capture_output=True, timeout=60)
    assert strictly_refused(authority.home / "ca-new.pem", server) is None


@pytest.mark.parametrize(
    ("extensions", "lacks"),
    [
        (
            "basicConstraints=CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash",
            "basicConstraints=critical,CA:TRUE",
        ),
        ("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash"),
    ],
)
async def test_other_extensions_that_an_authority_lacks_are_named_too(
    extensions: str, lacks: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca", "Mine")
    server = authority.issue("server", names="DNS:localhost")
    again = authority.again(extensions if "subject" in extensions else f"{extensions}\nsubjectKeyIdentifier=none")
    said = await said_of(strictly_refused(again, server), None)
    assert f"Issue the authority's certificate anew with its key and {lacks}" in said


def test_the_authorities_of_our_tests_are_what_python_asks_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "Ours")
    assert strictly_refused(authority.certificate, authority.issue("server", names="DNS:localhost")) is None
