"""The picture of a burn: temperature, clock, power and throughput of each GPU over the time, one under the other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kaalia.cli.canvas import Canvas, Colour, text_width
from kaalia.model.selftest import Sample

WIDTH, PANEL = 1240, 215
TOP, LEFT, RIGHT, BOTTOM, GAP = 96, 110, 30, 56, 34
WHITE, BLACK, GREY, PALE = (255, 255, 255), (30, 30, 30), (110, 110, 110), (228, 228, 228)
COLOURS: tuple[Colour, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((230, 159, 0), (86, 180, 233), (130, 130, 130), (148, 103, 189)),
)
"""Okabe and Ito, so that the colour-blind tell them apart; then grey and violet. The ninth GPU begins anew."""
LEGEND_MAX = 8
TICKS = 5


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the four."""

    title: str
    value: Callable[[Sample], float | None]


@dataclass(frozen=True, slots=True)
class Scale:
    """From `low` to `high`, at `ticks`."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def draw(samples: Sequence[Sample], names: Mapping[str, str], title: str, unit: str = "") -> bytes:
    """A PNG. `names`: what each GPU is called, by UUID, in order; `unit`: of the throughput."""
    panels = (
        Panel("temperature, °C", lambda one: one.temperature_c),
        Panel("clock, MHz", lambda one: one.clock_mhz),
        Panel("power, W", lambda one: one.power_w),
        Panel(f"throughput, {unit}" if unit else "throughput", lambda one: one.throughput),
    )
    canvas = Canvas(WIDTH, TOP + len(panels) * (PANEL + GAP) - GAP + BOTTOM, WHITE)
    canvas.text(LEFT, 16, title, BLACK)
    uuids = [*names, *dict.fromkeys(one.gpu_uuid for one in samples if one.gpu_uuid not in names)]
    _legend(canvas, [names.get(uuid, uuid) for uuid in uuids])
    time = scale([0.0, max((one.at_s for one in samples), default=0.0)])
    for number, panel in enumerate(panels):
        _panel(canvas, TOP + number * (PANEL + GAP), panel, samples, uuids, time)
    _times(canvas, canvas.height - BOTTOM, time)
    return canvas.png()


def scale(values: Sequence[float]) -> Scale:
    """Round numbers around all of the values; those that do not change lie in the middle."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9 * max(abs(high), 1.0):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * round_one for round_one in (1, 2, 2.5, 5, 10) if power * round_one >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * number for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _legend(canvas: Canvas, names: Sequence[str]) -> None:
    left, top = LEFT, 44
    for number, name in enumerate(names[:LEGEND_MAX]):
        if left + 30 + text_width(name) > WIDTH - RIGHT and left > LEFT:
            left, top = LEFT, top + 22
        canvas.box(left, top + 4, 20, 6, COLOURS[number % len(COLOURS)])
        canvas.text(left + 28, top, name, BLACK)
        left += 28 + text_width(name) + 24
    if len(names) > LEGEND_MAX:
        canvas.text(left, top, f"and {len(names) - LEGEND_MAX} more", GREY)


def _panel(
    canvas: Canvas, top: int, panel: Panel, samples: Sequence[Sample], uuids: Sequence[str], time: Scale
) -> None:
    width = WIDTH - LEFT - RIGHT
    canvas.text(LEFT, top - 20, panel.title, GREY)
    known = [value for one in samples if (value := panel.value(one)) is not None]
    if not known:
        canvas.box(LEFT, top, width, PANEL, PALE)
        words = "not measured"
        canvas.text(LEFT + (width - text_width(words)) // 2, top + PANEL // 2 - 8, words, GREY)
        return
    values = scale(known)
    for tick in values.ticks:
        y = top + PANEL - round(values.share(tick) * PANEL)
        canvas.box(LEFT, y, width, 1, PALE)
        text = _number(tick)
        canvas.text(LEFT - 10 - text_width(text), y - 7, text, GREY)
    canvas.box(LEFT, top, 1, PANEL, GREY)
    canvas.box(LEFT, top + PANEL, width, 1, GREY)
    for number, uuid in enumerate(uuids):
        before: tuple[float, float] | None = None
        for one in sorted((one for one in samples if one.gpu_uuid == uuid), key=lambda one: one.at_s):
            value = panel.value(one)
            if value is None:
                continue
            here = (LEFT + time.share(one.at_s) * width, top + PANEL - values.share(value) * PANEL)
            canvas.line(before or here, here, COLOURS[number % len(COLOURS)])
            before = here


def _times(canvas: Canvas, top: int, time: Scale) -> None:
    width = WIDTH - LEFT - RIGHT
    for tick in time.ticks:
        text = _number(tick)
        x = LEFT + round(time.share(tick) * width)
        canvas.box(x, top, 1, 6, GREY)
        canvas.text(min(x - text_width(text) // 2, WIDTH - text_width(text) - 4), top + 10, text, GREY)
    canvas.text(LEFT, top + 32, "seconds since the burn began", GREY)


def _number(value: float) -> str:
    return f"{value:.6g}"
