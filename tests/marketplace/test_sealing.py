from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.marketplace.sealing import seal, unseal


def test_only_the_same_key_opens() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    again = Ed25519PrivateKey.from_private_bytes(key.private_bytes_raw())

    sealed = seal(key, b"secret")

    assert b"secret" not in sealed
    assert unseal(again, sealed) == b"secret"
    assert unseal(other, sealed) is None
    assert unseal(key, sealed[:-1]) is None
