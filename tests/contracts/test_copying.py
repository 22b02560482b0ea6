import pytest

from kaalia.contracts import copying
from kaalia.errors import ContractError
from kaalia.model.copying import CopyEnd, Holder, HolderKind

SEVEN = Holder(HolderKind.INSTANCE, 7)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhbEFfYX0vGl1ZbRpA3vWq3VbHlaWmGvTq0vTqzqqzq"


def refused(work: object, *args: object) -> str:
    with pytest.raises(ContractError) as caught:
        work(*args)  # type: ignore[operator]
    assert caught.value.problem.message.startswith("cannot ")
    assert caught.value.problem.remedy
    return caught.value.code


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("7", SEVEN),
        (7, SEVEN),
        ("C.7", SEVEN),
        ("V.9", Holder(HolderKind.VOLUME, 9)),
        ("local", None),
        (None, None),
    ],
)
def test_places_as_the_client_writes_them(value: object, found: Holder | None) -> None:
    assert copying.holder("src_id", value) == found


@pytest.mark.parametrize("value", ["", "C.", "X.7", "C.0", "C.07", "7.C", True, 7.0, [7], "C.7 ", "C.7/..", "c.7"])
def test_what_names_no_place_is_refused(value: object) -> None:
    assert refused(copying.holder, "src_id", value) == "copy_place_invalid"


def test_clouds_are_refused_by_a_code_of_their_own() -> None:
    assert {refused(copying.holder, "src_id", name) for name in ("s3", "drive.101", "b2.1", "dropbox", "hf.3")} == {
        "copy_cloud_unsupported"
    }


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("/workspace/", "/workspace/"),
        ("workspace", "/workspace"),
        ("//a//b/./c", "/a/b/c"),
        ("/", "/"),
        (".", "/"),
        ("/a/.", "/a/"),
        ("/a b", "/a b"),
    ],
)
def test_paths_keep_what_rsync_heeds(value: str, found: str) -> None:
    assert copying.path("src_path", value) == found


@pytest.mark.parametrize("value", ["", None, 5, "/a/../b", "..", "../etc", "/a\nb", "/a\0b", "/" + "x" * 4096])
def test_paths_that_lead_elsewhere_or_nowhere_are_refused(value: object) -> None:
    assert refused(copying.path, "src_path", value) == "copy_path_invalid"


@pytest.mark.parametrize(
    ("source", "target"),
    [("/a/", "/a/"), ("/a", "/"), ("/a/", "/a/b"), ("/a/b", "/a"), ("/", "/a"), ("/a", "/a"), ("/a/b/", "/a/b/c/")],
)
def test_what_overlaps_is_refused_in_one_holder(source: str, target: str) -> None:
    assert refused(copying.check_apart, CopyEnd(SEVEN, source), CopyEnd(SEVEN, target)) == "copy_overlaps"
    copying.check_apart(CopyEnd(SEVEN, source), CopyEnd(Holder(HolderKind.VOLUME, 7), target))


@pytest.mark.parametrize(("source", "target"), [("/a/", "/b/"), ("/a", "/b"), ("/a/b", "/c"), ("/ab/", "/a/")])
def test_places_apart_are_one_holders_business(source: str, target: str) -> None:
    copying.check_apart(CopyEnd(SEVEN, source), CopyEnd(SEVEN, target))


def test_homes_of_ssh_are_warned_of() -> None:
    assert "/root" in copying.warning(CopyEnd(SEVEN, "/root/"))
    assert "warning" in copying.warning(CopyEnd(SEVEN, "/"))
    assert copying.warning(CopyEnd(SEVEN, "/root/data/")) == ""
    assert copying.warning(CopyEnd(Holder(HolderKind.VOLUME, 7), "/")) == ""


def test_keys_are_stripped_to_type_and_base64() -> None:
    lines = [f"{KEY} me@home", f'command="sh" {KEY}', "ssh-dss AAAA", f"{KEY}", f"{KEY}\nssh-rsa x", ""]
    assert copying.keys(lines) == (KEY,)
    assert refused(copying.keys, ['command="sh" ' + KEY, "no key"]) == "copy_keys_missing"
