"""What is free of each model, with faults, and with tenants on broken and lost GPUs."""

from dataclasses import replace
from decimal import Decimal

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.slicing import model_of
from kaalia.contracts.vacancy import NO_MODEL, Holder, vacancies
from tests.support.builders import build_contract, build_gpus

GPUS = build_gpus(8)
UUIDS = [gpu.uuid for gpu in GPUS]
MODEL = "GeForce RTX 4090 24 GiB"


def contract(
    number: int, gpus: int, kind: ContractKind = ContractKind.ON_DEMAND, model: str | None = MODEL
) -> Contract:
    made = build_contract(number, kind=kind, gpu_model=model, price_usd_per_hour=Decimal("0.2") * gpus)
    return replace(made, spec=replace(made.spec, gpu_count=gpus))


def held(number: int, *uuids: str, count: int = 0) -> Holder:
    return Holder(contract(number, count or len(uuids)), holds=True, wants=True, gpu_uuids=uuids)


def test_a_broken_gpu_is_free_for_nobody() -> None:
    group = vacancies(GPUS, {UUIDS[3]}, [])[MODEL]

    assert (group.total, group.fit, group.free) == (8, 7, 7)
    assert group.bid_to_win(7, Decimal("0.1")) == Decimal("0.1")
    assert group.bid_to_win(8, Decimal("0.1")) is None


def test_a_broken_gpu_under_its_tenant_takes_nothing_from_the_others() -> None:
    group = vacancies(GPUS, {UUIDS[3]}, [held(1, *UUIDS[:4])])[MODEL]

    assert (group.fit, group.free) == (7, 4)
    assert group.bid_to_win(4, Decimal("0.1")) == Decimal("0.1")


def test_nor_does_one_that_is_lost_under_its_tenant() -> None:
    group = vacancies(GPUS[1:], (), [held(1, *UUIDS[:2])])[MODEL]

    assert (group.total, group.free) == (7, 6)


def test_gpus_that_nobody_named_yet_are_counted() -> None:
    assert vacancies(GPUS, {UUIDS[0]}, [held(1, count=2)])[MODEL].free == 5


def test_bids_give_way_and_are_outbid() -> None:
    bid = Holder(contract(1, 8, ContractKind.INTERRUPTIBLE), holds=True, wants=True, gpu_uuids=tuple(UUIDS))
    group = vacancies(GPUS, (), [bid])[MODEL]

    assert group.free == 8
    assert group.bid_to_win(1, Decimal("0.1")) == Decimal("0.201")
    assert group.without(1).bid_to_win(1, Decimal("0.1")) == Decimal("0.1")


def test_models_are_counted_apart() -> None:
    others = tuple(replace(gpu, name="NVIDIA GeForce RTX 3060", vram_mb=12288) for gpu in GPUS[6:])
    mixed = (*GPUS[:6], *others)
    small = model_of(others[0])
    unnamed = Holder(contract(2, 1, model=None), holds=True, wants=True, gpu_uuids=(UUIDS[7],))
    unsaid = Holder(contract(3, 1, model=None), holds=True, wants=True)

    groups = vacancies(mixed, {UUIDS[6]}, [held(1, UUIDS[0]), unnamed])

    assert {model: (one.total, one.free) for model, one in groups.items()} == {MODEL: (6, 5), small: (2, 0)}
    assert {one.free for one in vacancies(mixed, (), [unsaid]).values()} == {5, 1}


def test_a_machine_without_gpus_is_one_part() -> None:
    (group,) = vacancies((), (), [Holder(contract(1, 0, model=None), holds=True, wants=True)]).values()

    assert (group.total, group.free) == (0, 0)
    assert vacancies((), (), [])[NO_MODEL].bid_to_win(0, Decimal("0.1")) == Decimal("0.1")
