"""What the API server's refusal to make a job means for the job."""

from __future__ import annotations

import re

from ion_core.errors import ImageUnavailable, NoRoom, PermanentError, ProviderError, TransientError
from ion_kubernetes.quantities import quantity
from ion_kubernetes.refusals import ApiRefused

_LISTS = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_COUNTED = frozenset({"pods", "count/pods", "count/jobs.batch"})
"""Each job asks for one of them: a quota of none is no matter of size, but a namespace that is closed for a while."""
_IMAGE = re.compile(r"\.image$")


def refused(where: str, error: ApiRefused) -> ProviderError:
    """An error for ``raise … from``. A quota that is used up is waited for; one that is too small never has room."""
    said = error.message or str(error)
    if error.over_quota:
        if never := _never_fits(error.message):
            return PermanentError(f"{where}: {said}. That quota never has room for {never}: ask for less, or raise it.")
        return NoRoom(f"{where}: {said}")
    if error.being_deleted:
        return TransientError(f"{where}: an earlier one of this name is still being deleted.")
    if error.invalid and error.causes and all(_IMAGE.search(it.field) for it in error.causes):
        return ImageUnavailable(f"{where}: {said}")
    return PermanentError(f"{where}: Kubernetes refuses it: {said}")


def _never_fits(message: str) -> str:
    """What alone is more than its quota, such as ``limits.memory=2Gi``."""
    for found in _LISTS.finditer(message):
        limited = dict(_pairs(found["limited"]))
        for name, amount in _pairs(found["requested"]):
            try:
                if name in limited and name not in _COUNTED and quantity(amount) > quantity(limited[name]):
                    return f"{name}={amount}"
            except ValueError:  # another form than any that is known: nothing says that it never fits
                continue
    return ""


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name, amount) for name, _, amount in (it.partition("=") for it in text.split(",")) if amount]
