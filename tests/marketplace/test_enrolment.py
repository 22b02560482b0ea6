from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from kaalia.errors import ConfigError
from kaalia.marketplace import accounts, machines
from kaalia.wire import document, signature
from kaalia.wire.protocol import (
    EnrolReply,
)
from tests.marketplace.liar import Liar, new_token, open_liar
from tests.marketplace.support import open_market


async def test_enrolment_names_machine_and_signing_keys(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        reply = document.decode(EnrolReply, (await liar.enrol(await new_token(market))).body)
        async with market.context.engine.begin() as tx:
            machine = await machines.get(tx, reply.machine_id)

    key = market.context.signing_key
    assert reply.marketplace_keys == {signature.key_id(key): signature.public_key_text(key)}
    assert reply.server_time == market.clock.now()
    assert machine is not None
    assert machine.public_key == signature.public_key_text(liar.key)


async def test_enrolment_again_with_the_same_key_gives_the_same_id(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        token = await new_token(market)
        first = document.decode(EnrolReply, (await liar.enrol(token)).body)
        market.clock.advance(timedelta(days=2).total_seconds())
        again = document.decode(EnrolReply, (await liar.enrol(token)).body)
        fresh = document.decode(EnrolReply, (await liar.enrol(await new_token(market))).body)

    assert first.machine_id == again.machine_id == fresh.machine_id


async def test_used_token_is_refused_to_another_key(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        token = await new_token(market)
        await Liar(market, session, signature.generate_key()).enrol(token)
        reply = await Liar(market, session, signature.generate_key()).enrol(token)

    assert (reply.status, reply.code) == (409, "token_used")


async def test_unknown_and_expired_tokens_are_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        unknown = await liar.enrol("guess")
        token = await new_token(market)
        market.clock.advance(accounts.ENROL_TOKEN_LIFE.total_seconds())
        expired = await liar.enrol(token)

    assert [(r.status, r.code) for r in (unknown, expired)] == [(403, "token_invalid")] * 2


async def test_key_of_another_owners_machine_is_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        await accounts.add_user(liar.market.context.engine, "other", True)
        reply = await liar.enrol(await new_token(liar.market, "other"))

    assert (reply.status, reply.code) == (409, "key_taken")


async def test_a_renter_gets_no_token(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        with pytest.raises(ConfigError, match="not_a_host"):
            await new_token(market, "renter")


async def test_enrolment_without_the_private_key_is_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        victim = Liar(market, session, signature.generate_key())
        reply = await liar.send("POST", "/kaalia/v1/enroll", victim.enrolment(await new_token(market)))

    assert (reply.status, reply.code) == (401, "signature_invalid")


async def test_enrolment_with_no_key_at_all_is_refused(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        bad = replace(liar.enrolment("t"), public_key="AAAA")
        reply = await liar.send("POST", "/kaalia/v1/enroll", bad)

    assert (reply.status, reply.code) == (400, "document_invalid")
