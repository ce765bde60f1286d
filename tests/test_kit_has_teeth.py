"""A broken provider for every rule: the kit's test of that rule notices it, and passes the reference provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.errors import IonError
from tests.teeth import job_ends as job_ends  # these add to EXECUTOR
from tests.teeth import job_logs as job_logs
from tests.teeth import job_steps as job_steps
from tests.teeth import job_stops as job_stops
from tests.teeth import queues as queues  # these add to MESSAGING
from tests.teeth import settling as settling
from tests.teeth.blobs import BLOBS
from tests.teeth.documents import DOCUMENTS
from tests.teeth.executor import EXECUTOR
from tests.teeth.harness import Mutant, Mutants
from tests.teeth.messaging import MESSAGING
from tests.teeth.runtime import RUNTIME
from tests.teeth.services import PROVIDERS, SERVICES

CONTRACTS = [MESSAGING, RUNTIME, EXECUTOR, BLOBS, DOCUMENTS, SERVICES, PROVIDERS]
MUTANTS = [(contract, mutant) for contract in CONTRACTS for mutant in contract.mutants]
RULES = [(contract, rule) for contract in CONTRACTS for rule in contract.rules()]


def name(value: object) -> str:
    return "" if isinstance(value, Mutants) else str(value)


@pytest.mark.parametrize(("contract", "mutant"), MUTANTS, ids=name)
async def test_a_broken_provider_is_caught_by_its_rule(contract: Mutants, mutant: Mutant, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, IonError)) as caught:
        await contract.run(mutant.kit, mutant.rule, mutant.opens, tmp_path)
    print(f"{mutant}: {caught.value}")


@pytest.mark.parametrize(("contract", "rule"), RULES, ids=name)
async def test_the_reference_keeps_the_rule(contract: Mutants, rule: str, tmp_path: Path) -> None:
    await contract.run(contract.kit, rule, contract.reference, tmp_path)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.kit.__name__)
def test_every_rule_has_a_broken_provider(contract: Mutants) -> None:
    assert {mutant.rule for mutant in contract.mutants} == set(contract.rules())
