import asyncio
from pathlib import Path

import pytest

from kaalia.errors import ConfigError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.marketplace import accounts
from kaalia.store import enrolment
from kaalia.store.changes import Topic, wait
from kaalia.sync.enroll import KEY_FILE, enroll, ensure_key, load_key
from kaalia.wire import signature
from tests.marketplace.support import open_market
from tests.sync.support import FINGERPRINT, open_machine, open_pair, open_state


async def test_enrolment_is_remembered_and_rung(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, open_state(tmp_path / "state") as (database, changes):
        bell = changes.subscribe(Topic.ENROLMENT)
        token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
        made = await enroll(database, tmp_path / "state", market.url + "/", token, FINGERPRINT, market.clock)
        stored = await database.read(enrolment.get)
        rung = await wait(bell, 1)

    assert stored == made
    assert made.url == market.url
    assert list(made.marketplace_keys) == [signature.key_id(market.context.signing_key)]
    assert rung


def test_private_key_is_a_file_for_its_owner_only(tmp_path: Path) -> None:
    key = ensure_key(tmp_path)
    path = tmp_path / KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == signature.private_pem(key)
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY_FILE]


def test_key_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "identity.new").write_bytes(b"left by a crash")
    first, again = ensure_key(tmp_path), ensure_key(tmp_path)
    assert signature.key_id(first) == signature.key_id(again)


async def test_second_enrolment_is_refused(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, machine):
        with pytest.raises(ConfigError) as caught:
            await enroll(machine.database, machine.state_dir, market.url, "t", FINGERPRINT, machine.clock)

    assert caught.value.code == "already_enrolled"
    assert market.url in str(caught.value)
    assert str(machine.member.machine_id) in str(caught.value)


def copy_key(source: Path, target: Path) -> None:
    ensure_key(source)
    (target / KEY_FILE).write_bytes((source / KEY_FILE).read_bytes())
    (target / KEY_FILE).chmod(0o600)


async def test_retry_after_a_lost_answer_gets_the_same_id(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, open_state(tmp_path / "state") as (database, _):
        token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
        async with open_state(tmp_path / "lost") as (lost, _):
            await asyncio.to_thread(copy_key, tmp_path / "state", tmp_path / "lost")
            first = await enroll(lost, tmp_path / "lost", market.url, token, FINGERPRINT, market.clock)
        again = await enroll(database, tmp_path / "state", market.url, token, FINGERPRINT, market.clock)

    assert again.machine_id == first.machine_id


async def test_key_is_written_before_the_request(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, open_state(tmp_path / "state") as (database, _):
        state = tmp_path / "state"
        with pytest.raises(UnreachableError):
            await enroll(database, state, "http://127.0.0.1:1", "t", FINGERPRINT, market.clock)
        key = await asyncio.to_thread(load_key, state)
        token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
        await enroll(database, state, market.url, token, FINGERPRINT, market.clock)

        again = await asyncio.to_thread(load_key, state)

    assert signature.key_id(again) == signature.key_id(key)


async def test_refusals_keep_the_machine_unenrolled(tmp_path: Path) -> None:
    (tmp_path / "market").mkdir()
    async with (
        open_market(tmp_path / "market") as market,
        open_machine(market, tmp_path / "first"),
        open_state(tmp_path / "second") as (database, _),
    ):
        token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
        async with open_state(tmp_path / "third") as (third, _):
            await enroll(third, tmp_path / "third", market.url, token, FINGERPRINT, market.clock)
        with pytest.raises(MarketplaceError) as used:
            await enroll(database, tmp_path / "second", market.url, token, FINGERPRINT, market.clock)
        with pytest.raises(UnauthorizedError) as unknown:
            await enroll(database, tmp_path / "second", market.url, "guess", FINGERPRINT, market.clock)
        stored = await database.read(enrolment.get)

    assert (used.value.code, unknown.value.code) == ("token_used", "token_invalid")
    assert "guess" not in str(unknown.value)
    assert stored is None


async def test_plain_http_to_elsewhere_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, open_state(tmp_path / "state") as (database, _):
        with pytest.raises(ConfigError) as caught:
            await enroll(database, tmp_path / "state", "http://example.com", "t", FINGERPRINT, market.clock)

    assert caught.value.code == "tls_required"


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load_key(tmp_path)
    assert caught.value.code == "key_unusable"


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_missing_or_damaged_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / KEY_FILE).write_bytes(content)
        (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_key(tmp_path)
    assert caught.value.code == "key_unusable"
