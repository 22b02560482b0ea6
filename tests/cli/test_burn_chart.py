"""The picture of a burn is a PNG that others can read, and shows what was measured."""

import struct
import zlib
from itertools import pairwise

import pytest

from kaalia.cli.burn_chart import COLOURS, LEFT, PALE, PANEL, TOP, WIDTH, draw, scale
from kaalia.cli.canvas import Canvas
from kaalia.model.selftest import Sample

NAMES = {"GPU-a": "0: RTX 4090", "GPU-b": "1: RTX 4090"}
WHITE = (255, 255, 255)
BACK = {WHITE, PALE}

Picture = list[list[tuple[int, int, int]]]


def read(png: bytes) -> Picture:
    """By the book: chunks with their sums, rows without a filter."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length)[0] == zlib.crc32(name + data)
        parts[name] = data
        at += 12 + length
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    raw, stride = zlib.decompress(parts[b"IDAT"]), 1 + 3 * width
    assert len(raw) == stride * height
    rows = [raw[row * stride : (row + 1) * stride] for row in range(height)]
    assert all(row[0] == 0 for row in rows)
    return [[(row[at], row[at + 1], row[at + 2]) for at in range(1, stride, 3)] for row in rows]


def burn() -> list[Sample]:
    found = []
    for second in range(0, 60, 2):
        found += [
            Sample(second, "GPU-a", 40.0 + second / 2, 2700.0, 430.0, 150.0),
            Sample(second, "GPU-b", 35.0 + second / 2, 2600.0, 420.0, 149.0),
        ]
    return found


def colours(picture: Picture, top: int, height: int) -> set[tuple[int, int, int]]:
    return {dot for row in picture[top : top + height + 2] for dot in row[LEFT + 2 :]}


def test_all_four_panels_show_a_line_of_each_gpu() -> None:
    picture = read(draw(burn(), NAMES, "kaalia self-test: burn", "TFLOPS"))

    assert len(picture[0]) == WIDTH
    for number in range(4):
        found = colours(picture, TOP + number * (PANEL + 34), PANEL)
        assert {COLOURS[0], COLOURS[1]} <= found


def test_a_line_rises_as_the_values_do() -> None:
    picture = read(draw([one for one in burn() if one.gpu_uuid == "GPU-a"], NAMES, "burn"))
    rows = [_row(picture, x) for x in range(LEFT + 10, WIDTH - 150, 50)]

    assert all(later < earlier for earlier, later in pairwise(rows))


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    picture = read(draw([Sample(one.at_s, one.gpu_uuid, throughput=one.throughput) for one in burn()], NAMES, "burn"))

    assert COLOURS[0] not in colours(picture, TOP, PANEL)
    assert COLOURS[0] in colours(picture, TOP + 3 * (PANEL + 34), PANEL)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_samples_and_many_gpus_are_drawn_too(count: int) -> None:
    samples = [Sample(3.0, f"GPU-{number}", 50.0, 1000.0, None, float("1e9")) for number in range(count)]

    read(draw(samples, {}, "µ°\N{SNOWMAN}", "rounds/s"))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 100], (0, 20, 40, 60, 80, 100)),
        ([31, 78], (30, 40, 50, 60, 70, 80)),
        ([2, 2], (1.8, 1.9, 2.0, 2.1, 2.2)),
        ([0, 0], (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ([0.001, 0.0012], (0.001, 0.00105, 0.0011, 0.00115, 0.0012)),
        ([], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_ticks_are_round(values: list[float], ticks: tuple[float, ...]) -> None:
    found = scale(values)

    assert found.ticks == pytest.approx(ticks)
    assert found.low <= min(values, default=0)
    assert found.high >= max(values, default=1)


def test_letters_are_drawn_and_what_lies_outside_is_not() -> None:
    canvas = Canvas(20, 20, WHITE)
    canvas.text(0, 0, "1", (0, 0, 0), scale=1)
    canvas.text(18, 18, "WWW", (0, 0, 0))
    canvas.line((-50, 5), (50, 5), (9, 9, 9))
    picture = read(canvas.png())

    assert [picture[row][2] for row in (0, 1, 2, 3, 5)] == [(0, 0, 0)] * 4 + [(9, 9, 9)]
    assert picture[10] == [WHITE] * 20


def _row(picture: Picture, x: int) -> int:
    """Where the first GPU's line is, in the panel of temperatures."""
    return next(row for row in range(TOP, TOP + PANEL) if picture[row][x] == COLOURS[0])
