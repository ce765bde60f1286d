"""What is known of the protocols of fsspec before any driver is loaded: `ion-core check` asks no server."""

from __future__ import annotations

import difflib

from ion_core.contracts.provider import Section

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
EXCLUSIVE = ("file", "local", "memory", *OBJECT_STORES)
"""Whose backends create exclusively, or can."""
_DIRECTORIES = ("sftp", "ssh", "webdav", "dav", "smb")
SHARED = (*EXCLUSIVE, "webdav", "dav")
"""Whose drivers are safe for threads."""
_LAYERS = {
    "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cache", "cached", "dir", "filecache", "generic",
    "libarchive", "reference", "simplecache", "tar", "zip",
}  # fmt: skip
_READ_ONLY = {"data", "gist", "git", "github", "http", "https", "pyscript"}
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
    **dict.fromkeys(("sftp", "ssh"), "sftp"),
    **dict.fromkeys(("webdav", "dav"), "webdav"),
}
"""What of this distribution brings the driver of a protocol."""
INSTEAD = "Keep documents elsewhere, such as {provider: sqlite}, or in an object store that can: s3://, gs://, az://."


def refusal(protocol: str) -> str:
    """Why nothing can be kept there, '' for all that is known."""
    if protocol in _LAYERS:
        return f"{protocol}:// is a layer over another filesystem. Name that one"
    if protocol == "ftp":  # nothing is heard of a busy server but that there is no such file
        return "ftp:// cannot be relied on: its driver takes any error for a missing file. Use sftp:// or webdav://"
    if protocol in _READ_ONLY:
        return f"{protocol}:// can only be read. Name a place that can be written, such as s3:// or webdav://"
    return ""


def refusal_of_documents(protocol: str) -> str:
    """Why no documents can be kept there, '' for all that is known, and for a layer, whatever it is over."""
    if protocol in EXCLUSIVE or protocol in _LAYERS:
        return ""
    near = [] if protocol in _DIRECTORIES else difflib.get_close_matches(protocol, EXCLUSIVE, n=1)
    if near:
        return f"{protocol}:// cannot create exclusively. Did you mean {near[0]}://? {INSTEAD}"
    return f"{protocol}:// cannot create exclusively, so two dispatchers could commit one job. {INSTEAD}"


def missing_driver(protocol: str, section: Section, cure: str = "") -> str:
    """The sentence about a protocol whose driver is not installed, with our own cure where there is one."""
    if extra := EXTRAS.get(protocol):
        cure = f"pip install 'ion-fsspec-storage[{extra}]'"
    return f"{section.where('url')}: the driver for {protocol}:// is not installed. {cure}"
