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
from tests.teeth.far import FarBroker
from tests.teeth.harness import Mutant, Mutants, far_away
from tests.teeth.messaging import MESSAGING
from tests.teeth.observers import OBSERVERS
from tests.teeth.processes import PROCESSES
from tests.teeth.runtime import RUNTIME
from tests.teeth.services import PROVIDERS, SERVICES

CONTRACTS = [MESSAGING, PROCESSES, RUNTIME, EXECUTOR, BLOBS, DOCUMENTS, SERVICES, PROVIDERS, OBSERVERS]
MUTANTS = [(contract, mutant) for contract in CONTRACTS for mutant in contract.mutants]
RULES = [(contract, rule) for contract in CONTRACTS for rule in contract.rules()]


def name(value: object) -> str:
    return "" if isinstance(value, Mutants) else str(value)


@pytest.mark.parametrize(("contract", "mutant"), MUTANTS, ids=name)
async def test_a_broken_provider_is_caught_by_its_rule(contract: Mutants, mutant: Mutant, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, IonError)) as caught:
        await contract.run(mutant.kit, mutant.rule, mutant.opens, tmp_path)
    print(f"{mutant}: {caught.value}")


@pytest.mark.parametrize("mutant", MESSAGING.mutants, ids=name)
async def test_a_broken_broker_far_away_is_caught_as_well(mutant: Mutant, tmp_path: Path) -> None:
    with far_away(), pytest.raises((AssertionError, IonError)):
        await MESSAGING.run(mutant.kit, mutant.rule, mutant.opens, tmp_path, FarBroker)


@pytest.mark.parametrize("rule", MESSAGING.rules())
async def test_the_reference_far_away_keeps_the_rule_as_well(rule: str, tmp_path: Path) -> None:
    with far_away():
        await MESSAGING.run(MESSAGING.kit, rule, MESSAGING.reference, tmp_path, FarBroker)


@pytest.mark.parametrize(("contract", "rule"), RULES, ids=name)
async def test_the_reference_keeps_the_rule(contract: Mutants, rule: str, tmp_path: Path) -> None:
    await contract.run(contract.kit, rule, contract.reference, tmp_path)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.kit.__name__)
def test_every_rule_has_a_broken_provider(contract: Mutants) -> None:
    assert {mutant.rule for mutant in contract.mutants} == set(contract.rules())
