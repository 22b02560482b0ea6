from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.registry import RegistryLogin, parse_login
from kaalia.errors import ContractError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-u bob -p pw docker.io", ("docker.io", "bob", "pw")),
        ("-u bob -p pw", ("docker.io", "bob", "pw")),
        ("ghcr.io --username=bob --password 'p w'", ("ghcr.io", "bob", "p w")),
        ("docker login -ubob -ppw localhost:5000", ("localhost:5000", "bob", "pw")),
        ("-u '$oauthtoken' -p nvapi-x== nvcr.io", ("nvcr.io", "$oauthtoken", "nvapi-x==")),
    ],
)
def test_logins_as_docker_login_takes_them(text: str, expected: tuple[str, str, str]) -> None:
    assert parse_login(text) == RegistryLogin(*expected)


@pytest.mark.parametrize(
    "text", ["", "-u bob", "-p s3cret", "-u bob -p", "-u bob -p 's3cret", "-u b -p s3cret a b", "-u b -p s3cret --x"]
)
def test_anything_else_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_login(text)

    assert caught.value.code == "login_invalid"
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=100))
def test_no_text_breaks_it(text: str) -> None:
    with suppress(ContractError):
        parse_login(text)


def test_the_password_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(parse_login("-u bob -p s3cret"))
