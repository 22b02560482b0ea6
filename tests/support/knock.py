"""Run as a program: knocks at many doors at once. Reads a JSON list of [protocol, address, port], prints which answer.

`python3 knock.py SECONDS < doors.json`; the answer is a JSON list of booleans in the same order.
"""

import asyncio
import json
import os
import socket
import sys

WORD_BYTES = 8


async def knock(protocol: str, address: str, port: int, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await (_tcp(address, port) if protocol == "tcp" else _udp(address, port))
    except (OSError, TimeoutError):
        return False


async def _tcp(address: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return bool(await reader.read(1))
    finally:
        writer.close()


async def _udp(address: str, port: int) -> bool:
    """Again and again until it is answered, by whichever address: a lost datagram proves nothing."""
    loop, word = asyncio.get_running_loop(), os.urandom(WORD_BYTES)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        while True:
            await loop.sock_sendto(sock, word, (address, port))
            try:
                async with asyncio.timeout(0.3):
                    if await loop.sock_recv(sock, WORD_BYTES) == word:
                        return True
            except TimeoutError:
                continue


async def main(timeout_s: float) -> None:
    doors = json.load(sys.stdin)
    print(json.dumps(await asyncio.gather(*(knock(*door, timeout_s) for door in doors))))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
