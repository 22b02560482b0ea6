import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from kaalia.wire import template as wire

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_row_has_every_field_and_extra_filters_as_text() -> None:
    document = wire.decode({"name": "n", "image": "ubuntu", "extra_filters": {"num_gpus": {"gte": 1}}, "junk": 1})

    row = wire.encode(
        document, template_id=5, hash_id="h", creator_id=2, created_at=NOW, count_created=3, recent_create_at=None
    )

    assert set(wire.FIELDS) < set(row)
    assert "junk" not in row
    assert json.loads(row["extra_filters"]) == {"num_gpus": {"gte": 1}}
    assert (row["id"], row["hash_id"], row["creator_id"], row["count_created"]) == (5, "h", 2, 3)
    assert (row["created_at"], row["recent_create_date"], row["default_tag"]) == (NOW.timestamp(), None, "latest")


def test_a_row_is_read_back() -> None:
    document = wire.decode({"image": "ubuntu", "recommended_disk_space": "8.0", "extra_filters": '{"a": {"eq": 1}}'})

    row = wire.encode(
        document, template_id=1, hash_id="h", creator_id=1, created_at=NOW, count_created=0, recent_create_at=NOW
    )

    assert wire.decode(row) == document
    assert document["recommended_disk_space"] == 8.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("image", "x" * 513),
        ("private", "yes"),
        ("recommended_disk_space", -1),
        ("recommended_disk_space", "much"),
        ("extra_filters", "{"),
        ("extra_filters", [1]),
        ("env", 5),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        wire.decode({field: value})

    assert caught.value.errors()[0]["loc"][0] == field
