"""Run as a program: knocks at many doors at once. Reads a JSON list of [protocol, address, port], prints which answer.

`python3 knock.py SECONDS < doors.json`; the answer is a JSON list of booleans in the same order.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable

WORD_BYTES = 8
NAME, ADDRESS = b"\x08internet\x04test\0", "203.0.113.2"


async def knock(door: tuple[str, str, int], timeout_s: float) -> bool:
    protocol, address, port = door
    try:
        async with asyncio.timeout(timeout_s):
            return await {"tcp": _tcp, "udp": _udp, "dns": _dns}[protocol](address, port)
    except (OSError, TimeoutError):
        return False


async def _tcp(address: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")  # some speak only when they are asked
        return bool(await reader.read(1))
    finally:
        writer.close()


async def _udp(address: str, port: int) -> bool:
    word = os.urandom(WORD_BYTES)
    return await _say(address, port, word, lambda answer: answer == word)


async def _dns(address: str, port: int) -> bool:
    head = os.urandom(2) + b"\1\0" + struct.pack(">4H", 1, 0, 0, 0)
    question = head + NAME + struct.pack(">2H", 1, 1)
    return await _say(address, port, question, lambda answer: answer.endswith(socket.inet_aton(ADDRESS)))


async def _say(address: str, port: int, word: bytes, is_right: Callable[[bytes], bool]) -> bool:
    """Again and again until it is answered, by whichever address: a lost datagram proves nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        while True:
            await loop.sock_sendto(sock, word, (address, port))
            try:
                async with asyncio.timeout(0.3):
                    if is_right(await loop.sock_recv(sock, 512)):
                        return True
            except TimeoutError:
                continue


async def main(timeout_s: float) -> None:
    doors = json.load(sys.stdin)
    print(json.dumps(await asyncio.gather(*(knock(door, timeout_s) for door in doors))))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
