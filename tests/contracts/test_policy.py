"""What an owner admits on his own machine, whoever signed the contract."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kaalia.contracts import policy
from kaalia.contracts.contract import OWN_KINDS, Contract, ContractKind
from kaalia.contracts.policy import OPEN, Policy
from tests.support.builders import build_contract
from tests.support.clock import START

DAY = timedelta(days=1)


def contract(image: str = "ubuntu:22.04", gpus: int = 1, **changes: Any) -> Contract:
    made = build_contract(**changes)
    return replace(made, spec=replace(made.spec, image=image, gpu_count=gpus))


def code(asked: Policy, made: Contract) -> str | None:
    found = policy.refusal(asked, made, START)
    if found is not None:
        assert found.message.startswith("cannot ")
        assert found.remedy
    return found.code if found else None


CHEAP = Policy(min_price_gpu_per_hour=Decimal("0.30"))
SHORT = Policy(max_duration=10 * DAY)
UNTIL = Policy(latest_end_at=START + 10 * DAY)
BANS = Policy(banned_images=("*/xmrig*", "ubuntu"))


@pytest.mark.parametrize(
    ("asked", "made", "wanted"),
    [
        (CHEAP, contract(price_usd_per_hour=Decimal("0.30")), None),
        (CHEAP, contract(price_usd_per_hour=Decimal("0.2999")), "price_below_policy"),
        (CHEAP, contract(gpus=4, price_usd_per_hour=Decimal("1.1")), "price_below_policy"),
        (CHEAP, contract(gpus=0, price_usd_per_hour=Decimal("0.29")), "price_below_policy"),
        (CHEAP, contract(kind=ContractKind.RESERVED, price_usd_per_hour=Decimal("0.2")), "price_below_policy"),
        (CHEAP, contract(kind=ContractKind.INTERRUPTIBLE, price_usd_per_hour=Decimal("0.2")), "price_below_policy"),
        (SHORT, contract(end_at=START + 10 * DAY), None),
        (SHORT, contract(end_at=START + 10 * DAY + timedelta(seconds=59)), None),
        (SHORT, contract(end_at=START + 11 * DAY), "duration_above_policy"),
        (SHORT, contract(end_at=None), "duration_above_policy"),
        (SHORT, contract(start_at=START + 9 * DAY, end_at=START + 11 * DAY), "duration_above_policy"),
        (UNTIL, contract(end_at=START + 10 * DAY), None),
        (UNTIL, contract(end_at=START + 11 * DAY), "end_after_policy"),
        (UNTIL, contract(end_at=None), "end_after_policy"),
        (BANS, contract("debian"), None),
        (BANS, contract("docker.io/library/ubuntu@sha256:" + "a" * 64), "image_banned"),
        (BANS, contract("REGISTRY-1.docker.io:443/miner/xmrig-gpu:v6"), "image_banned"),
        (BANS, contract("sha256:" + "a" * 64), "image_invalid"),
        (BANS, contract("Upper/Case name"), "image_invalid"),
        (OPEN, contract("sha256:" + "a" * 64, price_usd_per_hour=Decimal(0), end_at=None), None),
        (Policy(admit_interruptible=False), contract(kind=ContractKind.INTERRUPTIBLE), "interruptible_refused"),
        (Policy(admit_interruptible=False), contract(), None),
        (Policy(admit_default_jobs=False), contract(kind=ContractKind.DEFAULT_JOB), "default_job_refused"),
        (Policy(admit_default_jobs=False), contract(), None),
    ],
)
def test_each_rule_has_its_code(asked: Policy, made: Contract, wanted: str | None) -> None:
    assert code(asked, made) == wanted


@pytest.mark.parametrize("kind", sorted(OWN_KINDS))
def test_own_work_has_no_price_but_no_banned_image_either(kind: ContractKind) -> None:
    everything = replace(BANS, min_price_gpu_per_hour=Decimal(9), latest_end_at=START, max_duration=DAY)
    free = contract("debian", kind=kind, price_usd_per_hour=Decimal(0), end_at=None)

    assert code(everything, free) is None
    assert code(everything, replace(free, spec=replace(free.spec, image="ubuntu"))) == "image_banned"


def test_nothing_overflows_at_the_ends_of_time() -> None:
    last = START.replace(year=9999, month=12, day=31)
    first = START.replace(year=1, month=1, day=1)

    assert code(SHORT, contract(start_at=last, end_at=last)) == "duration_above_policy"
    assert code(SHORT, contract(start_at=first, end_at=first)) is None
    assert code(replace(SHORT, latest_end_at=last), contract(start_at=first, end_at=last)) == "duration_above_policy"
