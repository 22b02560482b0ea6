import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from kaalia.contracts.offer import Listing
from kaalia.errors import KaaliaError
from kaalia.model.machine import System
from kaalia.wire import document
from kaalia.wire.protocol import RegistryLoginReply, TaskRequest, Verb


def test_money_and_time_survive_the_wire() -> None:
    listing = Listing(Decimal("0.10"), end_at=datetime(2027, 1, 1, tzinfo=UTC))
    again = document.decode(Listing, document.encode(listing))
    assert again == listing
    assert str(again.price_gpu_per_hour) == "0.10"


def test_unknown_fields_are_ignored() -> None:
    assert document.decode(Listing, '{"price_gpu_per_hour": "1", "colour": "red"}') == Listing(Decimal(1))


def test_wrong_field_is_named_and_not_quoted() -> None:
    with pytest.raises(KaaliaError) as caught:
        document.decode(RegistryLoginReply, '{"registry": "r", "username": 123456, "password": "p"}')
    assert caught.value.code == "document_invalid"
    assert "username" in str(caught.value)
    assert "123456" not in str(caught.value)


def test_numbers_in_text_are_refused() -> None:
    with pytest.raises(KaaliaError):
        document.decode(Listing, '{"price_gpu_per_hour": "1", "min_gpu": "2"}')


@pytest.mark.parametrize(
    ("kind", "text", "place"),
    [
        (Listing, '{"price_gpu_per_hour": "1", "end_at": "2027-01-01T00:00:00"}', "end_at"),
        (Listing, '{"price_gpu_per_hour": "1", "rolling_duration_s": NaN}', "rolling_duration_s"),
        (Listing, '{"price_gpu_per_hour": "1", "rolling_duration_s": 1e999}', "rolling_duration_s"),
        (Listing, '{"price_gpu_per_hour": "1", "min_gpu": 9223372036854775808}', "min_gpu"),
    ],
    ids=["time without zone", "nan", "infinity", "larger than a database holds"],
)
def test_values_that_nobody_can_reckon_with_are_refused(kind: type, text: str, place: str) -> None:
    with pytest.raises(KaaliaError) as caught:
        document.decode(kind, text)
    assert caught.value.code == "document_invalid"
    assert place in str(caught.value)


def test_values_are_checked_at_any_depth() -> None:
    system = (
        '{"hostname": "h", "os_name": null, "kernel": "6", "board": null, "boot_id": "b", "booted_at": "2026-01-01"}'
    )
    with pytest.raises(KaaliaError) as caught:
        document.decode(tuple[System, ...], f"[{system}]".replace("2026-01-01", "2026-01-01T00:00:00"))
    assert "0.booted_at" in str(caught.value)


def test_verb_of_a_newer_marketplace_is_readable() -> None:
    text = '{"task_id": "t", "verb": "fly", "contract_id": 1, "deadline_at": "2026-01-01T00:00:00Z"}'
    assert document.decode(TaskRequest, text).verb is Verb.UNKNOWN


def test_secrets_stay_out_of_repr() -> None:
    assert "hunter2" not in repr(RegistryLoginReply("r", "u", "hunter2"))


_FIRST_DOCUMENT = """
import sys
from kaalia.wire import document
from kaalia.wire.probe import ProbeReply
seen = []
sys.addaudithook(lambda event, _: seen.append(event))
document.encode(ProbeReply("203.0.113.7", "203.0.113.7"))
looked = [event for event in seen if event in ("open", "os.listdir", "os.scandir")]
print(looked)
"""


def test_the_first_document_of_a_process_reads_no_file() -> None:
    """It may come in an event loop."""
    done = subprocess.run([sys.executable, "-c", _FIRST_DOCUMENT], check=True, capture_output=True, text=True)

    assert done.stdout == "[]\n"
