"""For which names a root may sign: written into it, so that who steals its key is no other site to those who trust it.

Any IP address, since machines come with theirs; of host names only those of this marketplace. RFC 5280, 4.2.1.10.
"""

import ipaddress
from collections.abc import Iterable

from cryptography import x509

LOCALHOST = "localhost"
_EVERYWHERE = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


def constraints(hosts: Iterable[str]) -> x509.NameConstraints:
    """`hosts`: the marketplace's own and its relays'; a name stands for all below it too."""
    names = dict.fromkeys([LOCALHOST, *(host.lower().rstrip(".") for host in hosts if not _is_address(host))])
    permitted = [*(x509.IPAddress(net) for net in _EVERYWHERE), *(x509.DNSName(name) for name in names)]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def within(root: x509.Certificate, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the root may sign for: one other name makes a whole certificate invalid."""
    permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    zones = [one.value for one in permitted if isinstance(one, x509.DNSName)]
    return tuple(name for name in names if _is_address(name) or any(f".{name}".endswith(f".{zone}") for zone in zones))


def general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
