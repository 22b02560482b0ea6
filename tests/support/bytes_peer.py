"""Run as a program: sends and takes known numbers of bytes over TCP.

`bytes_peer.py serve PORT`          answers `give N` with N bytes, and `take N` with how many of them came
`bytes_peer.py get ADDRESS PORT N`  asks for N bytes, prints how many came
`bytes_peer.py put ADDRESS PORT N`  sends N bytes, prints how many arrived
"""

import socket
import sys
import threading
from collections.abc import Callable

CHUNK = bytes(1024 * 1024)
TIMEOUT_S = 60.0


def serve(port: int) -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, backlog=16, dualstack_ipv6=True) as listener:
        print("ready", flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=answer, args=(peer,), daemon=True).start()


def answer(peer: socket.socket) -> None:
    with peer, peer.makefile("rb") as lines:
        peer.settimeout(TIMEOUT_S)
        verb, _, size = lines.readline().partition(b" ")
        if not size:
            return  # somebody who knocks at ports
        if verb == b"give":
            send(peer, int(size))
        else:
            peer.sendall(b"%d\n" % drain(lines.read1, int(size)))


def send(peer: socket.socket, size: int) -> None:
    while size:
        piece = CHUNK[: min(size, len(CHUNK))]
        peer.sendall(piece)
        size -= len(piece)


def drain(read: Callable[[int], bytes], size: int) -> int:
    """Read until so many came, or no more come."""
    came = 0
    while came < size and (piece := read(len(CHUNK))):
        came += len(piece)
    return came


def ask(verb: str, address: str, port: int, size: int) -> int:
    with socket.create_connection((address, port), TIMEOUT_S) as peer:
        peer.sendall(f"{'give' if verb == 'get' else 'take'} {size}\n".encode())
        if verb == "get":
            return drain(peer.recv, size)
        send(peer, size)
        with peer.makefile("rb") as lines:
            return int(lines.readline())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
