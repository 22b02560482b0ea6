"""Run as a program: a host that answers. `python3 echo.py TCP,PORTS UDP,PORTS [MULTICAST]` on all of its addresses.

TCP: greets whoever connects, then sends back what comes. UDP: sends back what came, and the address 203.0.113.2 to any
question for a name.
Prints `ready` once it listens.
"""

import asyncio
import contextlib
import socket
import struct
import sys

BANNER = b"here\n"
ADDRESS = "203.0.113.2"
IP_PKTINFO = 8
"""Of Linux; the socket module has no name for it before Python 3.14."""
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(BANNER)
        while data := await reader.read(2048):
            writer.write(data)
            await writer.drain()
        writer.close()


def answer(sock: socket.socket) -> None:
    """Send back what came, from the address that was asked: a host has several."""
    with contextlib.suppress(OSError):
        data, notes, _, sender = sock.recvmsg(2048, 128)
        _, asked, _ = struct.unpack("I4s4s", notes[0][2])
        sock.sendmsg(
            [_addressed(data)], [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("I4s4s", 0, asked, bytes(4)))], 0, sender
        )


def _addressed(data: bytes) -> bytes:
    """The answer to a DNS query (RFC 1035, 4.1); what is none goes back as it came."""
    if len(data) < 17 or data[2] & 0xF8 or data[4:6] != b"\0\1":
        return data
    asked = data[12 : data.index(b"\0", 12) + 5]
    head = data[:2] + b"\x81\x80" + struct.pack(">4H", 1, 1, 0, 0)
    return head + asked + struct.pack(">3HIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton(ADDRESS))


def datagrams(port: int, group: str) -> socket.socket:
    """Of this port on all addresses, and of the multicast group on all links."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setblocking(False)
    sock.bind(("", port))
    for _, name in socket.if_nameindex() if group else ():
        member = struct.pack("4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(name))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    return sock


def answer6(sock: socket.socket) -> None:
    """The same by IPv6."""
    with contextlib.suppress(OSError):
        data, notes, _, sender = sock.recvmsg(2048, 128)
        sock.sendmsg([_addressed(data)], [(socket.IPPROTO_IPV6, IPV6_PKTINFO, notes[0][2][:16] + bytes(4))], 0, sender)


def datagrams6(port: int) -> socket.socket:
    """Of this port on all IPv6 addresses."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setblocking(False)
    sock.bind(("::", port))
    return sock


async def main(tcp: str, udp: str, group: str = "") -> None:
    loop = asyncio.get_running_loop()
    for port in filter(None, tcp.split(",")):
        await asyncio.start_server(greet, None, int(port))
    for port in filter(None, udp.split(",")):
        sock = datagrams(int(port), group)
        loop.add_reader(sock, answer, sock)
        sock = datagrams6(int(port))
        loop.add_reader(sock, answer6, sock)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
