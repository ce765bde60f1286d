"""What the errors of fsspec's drivers mean, told apart without importing any of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from ion_core.errors import PermanentError, ProviderError, StorageFull, TransientError


class GaveUp(TimeoutError):
    """Somebody did not answer in time, and may still be waited for elsewhere."""


class Untrusted(PermissionError):
    """The server does not prove who it is. The text says what would do."""


_FULL = {errno.ENOSPC, errno.EDQUOT}
_NEVER = {405, 413, 414, 501}
"""HTTP statuses that the same request will always get."""
_DENIED = {401, 403}
_NO_GOOD = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
"""What S3 says with status 400 of credentials that it does not take, such as those that have expired."""
_MOVED = 301
_DAMAGED = "FlexibleChecksumError"
"""botocore's: what came is not what the checksum beside it says."""
_ARCHIVED = {"InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"}
_EXISTS = 412
"""HTTP status of a conditional write that found something. A 409 is two at the same moment: to be asked again."""


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind it, wherever s3fs, gcsfs, adlfs or aiohttp keep it."""
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = next((it for name in ("status_code", "status", "code") if (it := getattr(one, name, None))), None)
        if isinstance(found, int) or (isinstance(found, str) and found.isdecimal()):
            return int(found)
    return None


def is_taken(error: BaseException) -> bool:
    """Whether this says that an exclusive create found something."""
    return isinstance(error, FileExistsError) or status_of(error) == _EXISTS


def is_denied(error: BaseException) -> bool:
    """Whether the credentials are what is wrong, or what they may do."""
    if status_of(error) in _DENIED:
        return True
    return any(isinstance(one, PermissionError) or _code(one) in _NO_GOOD for one in _chain(error))


def is_gone(error: BaseException) -> bool:
    """The place itself is gone (bucket, container), which drivers report like a missing object."""
    codes = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted")
    return any(code in str(one) or code in repr(vars(one)) for one in _chain(error) for code in codes)


def is_elsewhere(error: BaseException) -> bool:
    """The bucket is in another region than the one that was asked."""
    return status_of(error) == _MOVED or any(_code(one) == "AuthorizationHeaderMalformed" for one in _chain(error))


def is_archived(error: BaseException) -> bool:
    """It is there, in a class of storage that nobody reads from: S3's Glacier, Azure's archive tier."""
    return any(_code(one) in _ARCHIVED for one in _chain(error))


def is_worth_another(error: BaseException, meant: ProviderError) -> bool:
    """Whether the same call a moment later may go well, and not only once somebody has put something right."""
    lasting = isinstance(meant, StorageFull) or not isinstance(meant, TransientError)
    return not (lasting or is_gone(error) or is_denied(error) or is_archived(error))


def translated(error: BaseException, where: str) -> ProviderError:
    """The StorageFull, TransientError or PermanentError to raise instead.

    Permanent is only what the very same call will always meet; a wrong password or a missing bucket is nothing that
    is wrong with a job: it waits until somebody puts it right.
    """
    status = status_of(error)
    said = _text(error, status)
    if status == 507 or any(isinstance(one, OSError) and one.errno in _FULL for one in _chain(error)):
        return StorageFull(f"{where}: no space left ({said}). Free some; work goes on by itself then.")
    if is_archived(error):
        return TransientError(f"{where}: is archived; restore it first ({said}).")
    if isinstance(error, Untrusted):
        return TransientError(f"{where}: {error}.")
    if is_denied(error):
        return TransientError(f"{where}: access is denied ({said}). Check the credentials and their rights.")
    if any(type(one).__name__ == _DAMAGED for one in _chain(error)):
        return TransientError(f"{where}: came damaged ({said}). Is something between here and the backend at fault?")
    if isinstance(error, ValueError | TypeError | NotImplementedError) or status in _NEVER:
        return PermanentError(f"{where}: is refused by the backend ({said}).")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return PermanentError(f"{where}: its name is too long for the backend ({said}).")
    return TransientError(f"{where}: the backend did not do it ({said}). Is it reachable?")


def _text(error: BaseException, status: int | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    said = f"{type(error).__name__}: {lines[0][:300]}" if lines[0] else type(error).__name__
    return said if status is None or str(status) in said else f"{said}, HTTP {status}"


def _code(error: BaseException) -> str:
    """The word that S3 or Azure has for it."""
    response: Any = getattr(error, "response", None)
    said = response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(error, "error_code", None)
    return str(getattr(said, "value", said))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__
