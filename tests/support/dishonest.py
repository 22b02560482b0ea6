"""Programs that proofs put into namespaces: a prober that lies, and a router that answers NAT-PMP.

`python -m tests.support.dishonest prober ADDRESS PORT` and `... router ADDRESS OUTER_ADDRESS`.
"""

import ipaddress
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class LyingProber(BaseHTTPRequestHandler):
    """Calls every port open without having tried one."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        address = self.client_address[0]
        results = [self._invented(target) for target in asked["targets"]]
        body = json.dumps({"seen_address": address, "address": address, "results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _invented(self, target: dict[str, Any]) -> dict[str, Any]:
        port, protocol = target["port"], target["protocol"]
        shown = {"challenge": "ab" * 16, "proof": "cd" * 16, "answered_port": port}
        return {"port": port, "protocol": protocol, "outcome": "answered", **shown}


def serve_natpmp(address: str, outer: str) -> None:
    """RFC 6886, the one question that kaalia asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((address, 5351))
        while True:
            data, peer = door.recvfrom(64)
            if data == bytes([0, 0]):
                door.sendto(bytes([0, 128, 0, 0, 0, 0, 0, 1]) + ipaddress.IPv4Address(outer).packed, peer)


def main(kind: str, address: str, last: str) -> None:
    if kind == "router":
        serve_natpmp(address, last)
    else:
        HTTPServer((address, int(last)), LyingProber).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
