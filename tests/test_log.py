import io
import json
import logging
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia import log


def start(form: Literal["text", "json"]) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    log.setup("info", form, stream)
    return logging.getLogger("kaalia.sync.service"), stream


def test_a_text_line_has_time_level_name_and_message() -> None:
    logger, stream = start("text")

    logger.warning("no answer from %s", "https://m.example")

    assert stream.getvalue().endswith(" WARNING sync.service: no answer from https://m.example\n")


def test_lines_name_the_contract_and_machine_they_are_about() -> None:
    logger, stream = start("text")

    with log.about(machine_id=7), log.about(contract_id=51):
        logger.info("created")
    logger.info("idle")

    first, second = stream.getvalue().splitlines()
    assert first.endswith("sync.service contract_id=51 machine_id=7: created")
    assert "contract_id" not in second


def test_a_json_line_is_one_object_even_with_a_trace() -> None:
    logger, stream = start("json")

    try:
        raise ValueError("two\nlines")
    except ValueError:
        with log.about(contract_id=51):
            logger.exception("it broke")

    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (line["level"], line["contract_id"], line["message"]) == ("error", 51, "it broke")
    assert "ValueError: two" in line["error"]


def test_lines_below_the_level_are_not_written() -> None:
    logger, stream = start("text")

    logger.debug("detail")

    assert stream.getvalue() == ""


def test_setting_up_twice_does_not_double_the_lines() -> None:
    start("text")
    logger, stream = start("text")

    logger.info("once")

    assert stream.getvalue().count("once") == 1


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hush-hush-hush",
        "authorization=Basic aHVzaC1odXNoLWh1c2g=",
        "sent Bearer hush-hush-hush to it",
        "{'api_key': 'hush-hush-hush'}",
        '{"CONTAINER_API_KEY": "hush-hush-hush", "n": 1}',
        "docker run -e HF_TOKEN=hush-hush-hush image",
        "password: hush-hush-hush",
        "GET https://user:hush-hush-hush@registry.example/v2/",
        "-----BEGIN PRIVATE KEY-----\nhush-hush-hush\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nhush-hush-hush",
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_masked(text: str, form: Literal["text", "json"]) -> None:
    logger, stream = start(form)

    logger.error("request failed: %s", text)

    assert "hush" not in stream.getvalue()
    assert "aHVzaC" not in stream.getvalue()
    assert log.MASK in stream.getvalue()


@pytest.mark.parametrize("text", ["contract 51 is running", "state: running", "pulled docker.io/library/busybox:1.36"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert log.redact(text) == text


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=8))
def test_no_value_of_a_secret_name_survives(value: str) -> None:
    assert value not in log.redact(f"api_key={value} ").removeprefix("api_key=")


@pytest.mark.parametrize("text", ["a", "a-", "token", "token ", "x://", "://a:", "-----BEGIN ", "Bearer "])
def test_masking_takes_linear_time(text: str) -> None:
    began_s = time.process_time()

    log.redact(text * (200_000 // len(text)))

    assert time.process_time() - began_s < 1
