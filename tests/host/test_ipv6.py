"""IPv6 of a machine, from the kernel's lists as real machines have them."""

from pathlib import Path

from kaalia.host import ipv6
from tests.support.sysfs import write_files

ADDRESSES = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db800000000021122fffe334455 02 40 00 00     eth0
2a02081030c00a00021122fffe334455 02 40 00 00     eth0
2a02081030c00a000000000000000007 02 40 00 80     eth0
2a02081030c00a000000000000000008 02 40 00 48     eth0
fe80000000000000021122fffe334455 02 40 20 80     eth0
fd420000000000000000000000000001 03 40 00 80     wg0
fd3a73ef60ad60010000000000000001 05 40 00 80     br-1
"""
NONE = "00000000000000000000000000000000"
ROUTES = f"""\
2a02081030c00a000000000000000000 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     eth0
2a020810000000000000000000000000 20 {NONE} 00 fe800000000000000000000000000001 00000400 1 0 00000003     eth0
fd420000000000000000000000000000 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001      wg0
fd3a73ef60ad60010000000000000000 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     br-1
fe800000000000000000000000000000 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     eth0
{NONE} 00 {NONE} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0
{NONE} 00 {NONE} 00 fd420000000000000000000000000009 00000800 00000001 00000000 00000003      wg0
{NONE} 00 {NONE} 00 {NONE} ffffffff 00000001 00000000 00200200       lo
2a02081030c00a000000000000000007 80 {NONE} 00 {NONE} 00000000 00000002 00000000 80200001     eth0
ff000000000000000000000000000000 08 {NONE} 00 {NONE} 00000100 00000004 00000000 00000001     eth0
"""


def machine(root: Path, forwarding: str = "0", accept_ra: str = "1", routes: str = ROUTES) -> Path:
    write_files(
        root,
        {
            "proc/net/if_inet6": ADDRESSES,
            "proc/net/ipv6_route": routes,
            "proc/sys/net/ipv6/conf/all/forwarding": forwarding,
            "proc/sys/net/ipv6/conf/eth0/accept_ra": accept_ra,
            "sys/class/net/br-1/bridge/bridge_id": "8000.0242",
            "sys/class/net/br-1/brif/veth1/state": "3",
        },
    )
    return root


def test_addresses_are_those_by_which_others_reach_the_machine(tmp_path: Path) -> None:
    """Not loopback or link-local ones, none that is not settled, not those of bridges of its own containers."""
    found = [str(one.address) for one in ipv6.addresses(machine(tmp_path))]

    assert found == [
        "2001:db8::211:22ff:fe33:4455",
        "2a02:810:30c0:a00:211:22ff:fe33:4455",
        "2a02:810:30c0:a00::7",
        "fd42::1",
    ]


def test_the_default_route_s_address_is_one_that_lasts(tmp_path: Path) -> None:
    assert ipv6.default_interface(machine(tmp_path)) == "eth0"
    assert ipv6.default_address(tmp_path) == "2a02:810:30c0:a00::7"


def test_routed_networks_are_told_without_those_of_every_link(tmp_path: Path) -> None:
    assert ipv6.routed_networks(machine(tmp_path)) == (
        "2a02:810:30c0:a00::/64",
        "2a02:810::/32",
        "fd42::/64",
        "fd3a:73ef:60ad:6001::/64",
    )


def test_the_lan_is_what_needs_no_router(tmp_path: Path) -> None:
    assert ipv6.lan_networks(machine(tmp_path)) == ("2a02:810:30c0:a00::/64",)


def test_the_owner_s_own_containers_are_of_the_lan(tmp_path: Path) -> None:
    """Docker's `fixed-cidr-v6`, or libvirt with a routed network: a bridge that nothing outside is joined to."""
    theirs = f"2a02081030c00b000000000000000000 40 {NONE} 00 {NONE} 00000100 00000001 00000000 00000001     br-1\n"

    assert ipv6.lan_networks(machine(tmp_path, routes=ROUTES + theirs)) == (
        "2a02:810:30c0:a00::/64",
        "2a02:810:30c0:b00::/64",
    )


def test_a_router_s_word_is_lost_by_forwarding_alone(tmp_path: Path) -> None:
    assert ipv6.lost_by_forwarding(machine(tmp_path)) == "eth0"
    assert ipv6.lost_by_forwarding(machine(tmp_path, forwarding="1")) is None
    assert ipv6.lost_by_forwarding(machine(tmp_path, accept_ra="2")) is None
    by_a_service = ROUTES.replace("00450003", "00000003")
    assert ipv6.lost_by_forwarding(machine(tmp_path, routes=by_a_service)) is None


def test_a_machine_without_a_way_out_by_ipv4_has_ipv6_only(tmp_path: Path) -> None:
    assert ipv6.is_only(machine(tmp_path))
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    write_files(tmp_path, {"proc/net/route": f"{head}lo 0002A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"})
    assert ipv6.is_only(tmp_path), "a LAN is no way out"
    assert not ipv6.is_only(tmp_path / "nothing"), "neither is there by IPv6"


def test_a_kernel_without_ipv6_has_none_of_it(tmp_path: Path) -> None:
    assert ipv6.addresses(tmp_path) == ()
    assert ipv6.default_address(tmp_path) is None
    assert ipv6.routed_networks(tmp_path) == ipv6.lan_networks(tmp_path) == ()
    assert ipv6.lost_by_forwarding(tmp_path) is None
