"""Metrics of the availability ledger: outages in the machine's own words, and the figure that renters see."""

from collections.abc import Iterator

from kaalia.api.metrics.metric import Sample, gauge
from kaalia.api.metrics.reading import Reading
from kaalia.contracts import reliability
from kaalia.model.availability import Cause

RELIABILITY = gauge(
    "kaalia_reliability_ratio",
    "Reliability by the published formula: the `machine`'s figure, the `marketplace`'s.",
    "by",
)
OUTAGES = gauge("kaalia_outages", "Outages of the last 30 days by the machine's own ledger.", "cause")
LASTED = gauge("kaalia_outage_seconds", "How long they lasted within these 30 days.", "cause")
OPEN = gauge("kaalia_outage_open", "1 while an outage of this cause goes on.", "cause")
SILENCES = gauge("kaalia_silences", "Times of the last 30 days in which the marketplace did not hear of the machine.")
SILENT = gauge("kaalia_silence_seconds", "How long they lasted.")

METRICS = (RELIABILITY, OUTAGES, LASTED, OPEN, SILENCES, SILENT)


def samples(reading: Reading) -> Iterator[Sample]:
    for cause in Cause:
        found = reading.outages.get(cause)
        yield Sample(OUTAGES, (cause,), found.count if found else 0)
        yield Sample(LASTED, (cause,), found.seconds if found else 0)
        yield Sample(OPEN, (cause,), float(found is not None and found.is_open))
    contact, record = reading.contact, reading.record
    if contact.reliability is not None:
        yield Sample(RELIABILITY, ("marketplace",), contact.reliability)
    if record is None:
        return
    going_on = None
    if contact.heard_at is not None:
        going_on = reliability.silence(record, contact.heard_at, reading.now, reading.windows)
    yield Sample(RELIABILITY, ("machine",), reliability.figure(record, reading.now, going_on))
    since = reading.now - reliability.WINDOW
    lately = [one for one in (*record.silences, *filter(None, (going_on,))) if one.end_at > since]
    yield Sample(SILENCES, (), len(lately))
    yield Sample(SILENT, (), sum((one.end_at - max(one.begin_at, since)).total_seconds() for one in lately))
