"""A picture of dots, with lines and letters, and the PNG of it; by the standard library alone."""

import math
import struct
import zlib
from collections.abc import Iterator

from kaalia.cli import font

Colour = tuple[int, int, int]
_HALF_WIDTH = 1.0
"""Of a line, in dots; it fades out over one more."""


class Canvas:
    """`width` by `height` dots; (0, 0) is the upper left one. What lies outside is not drawn."""

    def __init__(self, width: int, height: int, colour: Colour) -> None:
        self.width, self.height = width, height
        self._dots = bytearray(bytes(colour) * (width * height))

    def at(self, x: int, y: int) -> Colour:
        place = 3 * (y * self.width + x)
        red, green, blue = self._dots[place : place + 3]
        return red, green, blue

    def dot(self, x: int, y: int, colour: Colour, cover: float = 1.0) -> None:
        """`cover`: how much of it is of this colour, 0 to 1."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            return
        place = 3 * (y * self.width + x)
        for part, wanted in enumerate(colour):
            there = self._dots[place + part]
            self._dots[place + part] = round(there + (wanted - there) * cover)

    def box(self, left: int, top: int, width: int, height: int, colour: Colour) -> None:
        """A filled one."""
        left, right = max(0, left), min(self.width, left + width)
        row = bytes(colour) * max(0, right - left)
        for y in range(max(0, top), min(self.height, top + height)):
            place = 3 * (y * self.width + left)
            self._dots[place : place + len(row)] = row

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        """With soft edges."""
        (x1, y1), (x2, y2) = start, end
        is_steep = abs(y2 - y1) > abs(x2 - x1)
        if is_steep:
            x1, y1, x2, y2 = y1, x1, y2, x2
        if x1 > x2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        slope = (y2 - y1) / (x2 - x1) if x2 > x1 else 0.0
        for x in range(math.ceil(x1), math.floor(x2) + 1):
            middle = y1 + slope * (x - x1)
            for y in range(math.floor(middle - _HALF_WIDTH), math.ceil(middle + _HALF_WIDTH) + 1):
                cover = min(1.0, _HALF_WIDTH + 0.5 - abs(y - middle))
                if cover > 0:
                    self.dot(*((y, x) if is_steep else (x, y)), colour, cover)

    def text(self, left: int, top: int, text: str, colour: Colour, scale: int = 2) -> None:
        for number, letter in enumerate(text):
            columns = font.GLYPHS.get(letter, font.UNKNOWN)
            for x, column in enumerate(columns):
                for y in range(font.HEIGHT):
                    if column >> y & 1:
                        place = left + (number * font.WIDTH + x) * scale
                        self.box(place, top + y * scale, scale, scale, colour)

    def png(self) -> bytes:
        """Each row as it is, behind the number 0 (no filter)."""
        row = 3 * self.width
        rows = b"".join(b"\0" + self._dots[at : at + row] for at in range(0, len(self._dots), row))
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(piece for name, data in parts for piece in _chunk(name, data))


def _chunk(name: bytes, data: bytes) -> Iterator[bytes]:
    yield struct.pack(">I", len(data)) + name + data
    yield struct.pack(">I", zlib.crc32(name + data))


def text_width(text: str, scale: int = 2) -> int:
    return len(text) * font.WIDTH * scale
