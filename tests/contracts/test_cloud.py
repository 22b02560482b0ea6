"""Clouds: which logins and paths are taken, and where one may be."""

from typing import Any

import pytest

from kaalia.contracts import cloud
from kaalia.errors import ContractError

S3 = {"access_key_id": "a", "secret_access_key": "b"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("s3", {**S3, "region": "", "endpoint": "http://minio.example.com:9000", "provider": "Minio"}),
        ("b2", {"account": "a", "key": "b"}),
        ("drive", {"token": {"access_token": "x"}, "root_folder_id": "y"}),
        ("drive", {"service_account_credentials": '{"type": "service_account"}'}),
        ("dropbox", {"token": '{"access_token": "x"}'}),
    ],
)
def test_logins_that_are_taken_are_taken_again_by_the_machine(kind: str, options: dict[str, Any]) -> None:
    login = cloud.check_login(kind, options)
    assert cloud.check_login(login.kind, login.options) == login
    assert all(isinstance(one, str) and one for one in login.options.values())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("s3", {}),
        ("s3", {"access_key_id": "a"}),
        ("s3", {**S3, "env_auth": "true"}),
        ("s3", {**S3, "shared_credentials_file": "/etc/shadow"}),
        ("s3", {**S3, "endpoint": "ftp://example.com"}),
        ("s3", {**S3, "endpoint": "http://a:b@example.com"}),
        ("s3", {**S3, "endpoint": "http://example.com:99999"}),
        ("s3", {**S3, "provider": "AWS,env_auth=true"}),
        ("s3", {**S3, "region": "a\0b"}),
        ("s3", {**S3, "session_token": "x" * 9000}),
        ("b2", {"account": "a", "key": "b", "endpoint": "http://example.com"}),
        ("drive", {"service_account_file": "/etc/shadow"}),
        ("dropbox", {"token": ["x"]}),
        ("local", {}),
    ],
)
def test_other_logins_are_refused(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r"^\w+: cannot|^cannot") as refused:
        cloud.check_login(kind, options)
    assert refused.value.code in ("cloud_login_invalid", "cloud_kind_unknown")
    assert refused.value.problem.remedy


def test_paths_are_plain_and_begin_with_a_bucket_where_there_are_some() -> None:
    assert cloud.path("dst", "s3", "/bucket//a/./b/") == "bucket/a/b"
    assert cloud.path("dst", "drive", "/") == ""
    for kind, value in (("s3", "/"), ("s3", "a/../b"), ("drive", "a\nb"), ("drive", None), ("s3", "b/" + "x" * 1100)):
        with pytest.raises(ContractError) as refused:
            cloud.path("dst", kind, value)
        assert refused.value.code == "copy_path_invalid"
