"""Asks the router for its outer address by NAT-PMP (RFC 6886), which many home routers answer and others ignore."""

import asyncio
import ipaddress
import socket

PORT = 5351
TIMEOUT_S = 1.0
_QUESTION = bytes([0, 0])
_ANSWER_BYTES = 12


async def outer_address(router_ip: str) -> str | None:
    """The IPv4 address on the far side of the router; None when it does not tell."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.connect((router_ip, PORT))
            async with asyncio.timeout(TIMEOUT_S):
                await loop.sock_sendall(sender, _QUESTION)
                return parse(await loop.sock_recv(sender, 64))
        except (OSError, TimeoutError):
            return None


def parse(data: bytes) -> str | None:
    """Version 0, operation 128, result 0, four bytes of time, the address."""
    if len(data) != _ANSWER_BYTES or data[:4] != bytes([0, 128, 0, 0]):
        return None
    address = ipaddress.IPv4Address(data[8:12])
    return None if address.is_unspecified else str(address)
