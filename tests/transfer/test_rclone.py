"""What rclone says, and what its end means."""

import json
from typing import Any

import pytest

from kaalia.model.copying import CloudLogin, CloudOrder, CopyEnd, Holder, HolderKind
from kaalia.transfer import plan, rclone
from kaalia.transfer.rclone import Progress

UP = CloudOrder("c" * 8, CopyEnd(Holder(HolderKind.INSTANCE, 7), "/work"), "s3.1", "bucket/x", is_upload=True)
DOWN = CloudOrder("c" * 8, CopyEnd(Holder(HolderKind.INSTANCE, 7), "/work"), "s3.1", "bucket/x", is_upload=False)
STATS: dict[str, Any] = {"bytes": 50, "totalBytes": 200, "transfers": 0, "totalTransfers": 0, "speed": 10.5}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (json.dumps({"level": "warning", "stats": STATS}), Progress(50, 200, 0, 10.5)),
        (json.dumps({"stats": {**STATS, "transferring": [{}], "transfers": 1}}), Progress(50, 200, 2, 10.5)),
        (json.dumps({"stats": {**STATS, "speed": None}}), None),
        (json.dumps({"level": "warning", "msg": "skipped"}), None),
        (json.dumps({"level": "error", "object": "a", "msg": "AccessDenied"}), "a: AccessDenied"),
        ("Failed to copy: x", "Failed to copy: x"),
        ("[]", "[]"),
    ],
)
def test_its_lines(line: str, expected: object) -> None:
    assert rclone.heard(line) == expected


@pytest.mark.parametrize(
    ("order", "exit_code", "said", "code"),
    [
        (UP, 0, "AccessDenied", None),
        (UP, 1, "a: SignatureDoesNotMatch: x\n\tstatus code: 403, request id: ", "cloud_login_refused"),
        (UP, 1, "couldn't fetch token - maybe it has expired?", "cloud_login_refused"),
        (UP, 1, "socks connect tcp x->y: unknown error connection not allowed by ruleset", "cloud_address_refused"),
        (UP, plan.SOURCE_MISSING, "/work: No such file or directory", "copy_source_missing"),
        (DOWN, plan.TARGET_UNUSABLE, "/work: Not a directory", "copy_target_unusable"),
        (DOWN, 1, "write /files/a: no space left on device", "copy_disk_full"),
        (DOWN, 1, "write /files/a: disk quota exceeded", "copy_disk_full"),
        (DOWN, 3, "directory not found", "copy_source_missing"),
        (UP, 1, "NoSuchBucket", "copy_source_missing"),
        (UP, 9, "anything", "copy_failed"),
    ],
)
def test_its_end(order: CloudOrder, exit_code: int, said: str, code: str | None) -> None:
    found = rclone.problem(order, exit_code, said)
    assert (None if found is None else found.code) == code


def test_a_login_is_environment_and_its_secrets_are_known() -> None:
    login = CloudLogin("drive", {"token": '{"access_token": "abc", "expiry": "x"}', "root_folder_id": "plain"})
    assert rclone.environment(login)["RCLONE_CONFIG_CLOUD_TOKEN"] == login.options["token"]
    assert {"abc", login.options["token"]} <= set(rclone.secrets(login))
    assert "plain" not in rclone.secrets(login)
    assert rclone.environment(CloudLogin("s3", {}))["RCLONE_CONFIG_CLOUD_PROVIDER"] == "AWS"
    assert rclone.environment(CloudLogin("s3", {"endpoint": "x"}))["RCLONE_CONFIG_CLOUD_PROVIDER"] == "Other"
    assert "abc" not in repr(login)
