"""The lobby of doors: who may wait there, and who has to go."""

from functools import partial

from kaalia.transfer.lobby import ADDRESS_MAX, LOBBY_MAX, Lobby


def test_an_address_has_so_many_and_a_network_of_ipv6_is_one() -> None:
    for places in (["192.0.2.1"], ["::ffff:192.0.2.1", "192.0.2.1"], ["2001:db8::1", "2001:db8::2", "2001:db8::ff"]):
        lobby = Lobby()
        numbers = [lobby.enter(places[number % len(places)], list[int]().clear) for number in range(ADDRESS_MAX)]
        assert None not in numbers
        assert lobby.enter(places[0], list[int]().clear) is None
        assert lobby.enter("198.51.100.1", list[int]().clear) is not None
        assert numbers[0] is not None
        lobby.leave(numbers[0])
        lobby.leave(numbers[0])
        assert lobby.enter(places[-1], list[int]().clear) is not None


def test_who_waits_longest_makes_room_once() -> None:
    lobby, ended = Lobby(), list[int]()
    numbers = [lobby.enter(f"192.0.2.{one}", partial(ended.append, one)) for one in range(LOBBY_MAX)]
    assert numbers[1] is not None
    lobby.leave(numbers[1])
    assert lobby.enter("198.51.100.1", partial(ended.append, 100)) is not None
    assert ended == []
    for one in range(2):
        lobby.enter(f"198.51.100.{one + 2}", partial(ended.append, 101 + one))
    assert ended == [0, 2]
