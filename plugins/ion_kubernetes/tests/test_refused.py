"""What a refusal of the API server means for a job, in the words that a real one used."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ion_core.errors import ImageUnavailable, NoRoom, PermanentError, ProviderError, TransientError
from ion_kubernetes.quantities import quantity
from ion_kubernetes.refusals import ApiRefused
from ion_kubernetes.refused import refused

QUOTA = 'pods "x" is forbidden: exceeded quota: rq, requested: {}, used: {}, limited: {}'


@pytest.mark.parametrize(
    ("status", "reason", "message", "error"),
    [
        (403, "Forbidden", QUOTA.format("pods=1", "pods=1", "pods=1"), NoRoom),
        (403, "Forbidden", QUOTA.format("limits.cpu=500m", "limits.cpu=800m", "limits.cpu=1"), NoRoom),
        (403, "Forbidden", QUOTA.format("limits.memory=2Gi", "limits.memory=0", "limits.memory=1Gi"), PermanentError),
        (
            403,
            "Forbidden",
            QUOTA.format("pods=1,limits.cpu=2", "pods=1,limits.cpu=0", "pods=1,limits.cpu=1"),
            PermanentError,
        ),
        (403, "Forbidden", QUOTA.format("x=odd", "x=0", "x=1"), NoRoom),
        (
            403,
            "Forbidden",
            'pods "x" is forbidden: failed quota: rq: must specify limits.memory for: main',
            PermanentError,
        ),
        (403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": …', PermanentError),
        (409, "AlreadyExists", 'object is being deleted: pods "x" already exists', TransientError),
        (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", PermanentError),
    ],
)
def test_a_refusal_says_whether_waiting_helps(
    status: int, reason: str, message: str, error: type[ProviderError]
) -> None:
    found = refused("job x", ApiRefused("kubernetes: POST …", status, reason, message, {}))
    assert type(found) is error
    assert message.rstrip(".") in str(found) or error is TransientError


def test_what_alone_is_more_than_its_quota_is_named() -> None:
    message = QUOTA.format("limits.memory=2Gi", "limits.memory=0", "limits.memory=1Gi")
    found = refused("job x", ApiRefused("kubernetes: POST …", 403, "Forbidden", message, {}))
    assert "never has room for limits.memory=2Gi" in str(found)


def test_an_image_alone_that_is_refused_is_an_image_that_cannot_be_had() -> None:
    image = {"field": "spec.initContainers[1].image", "reason": "FieldValueInvalid", "message": "Invalid value"}
    other = {"field": "metadata.name", "reason": "FieldValueInvalid", "message": "Invalid value"}

    def of(*causes: dict[str, str]) -> ProviderError:
        return refused("job x", ApiRefused("kubernetes: POST …", 422, "Invalid", "invalid", {"causes": list(causes)}))

    assert type(of(image)) is ImageUnavailable
    assert type(of(image, other)) is PermanentError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        ("500m", "0.5"),
        ("1Gi", "1073741824"),
        ("2e3", "2000"),
        ("1E", "1e18"),
        ("0.5k", "500"),
        ("-1Ki", "-1024"),
    ],
)
def test_quantities_are_those_of_kubernetes(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "1MB", "Gi", "1.2.3", ".", "1 Gi", "one"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)
