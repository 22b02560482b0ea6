"""Run as a program: keeps one TCP connection. `python3 hold.py ADDRESS PORT`; prints `ready` once it was greeted.

For each line that it reads it sends a byte, and prints `answered`, or `silent` after 1.5 s without an answer.
"""

import socket
import sys

SILENCE_S = 1.5


def main(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=5) as sock:
        assert sock.recv(64)
        print("ready", flush=True)
        sock.settimeout(SILENCE_S)
        for _ in sys.stdin:
            print("answered" if answers(sock) else "silent", flush=True)


def answers(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"x")
        return bool(sock.recv(64))
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
