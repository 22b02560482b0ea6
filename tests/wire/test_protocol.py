"""The end of a long result is kept, on either side."""

from kaalia.wire.protocol import CUT, TASK_RESULT_MAX_BYTES, shortened


def test_long_text_keeps_its_end() -> None:
    short = shortened("ä" * TASK_RESULT_MAX_BYTES + "end")
    assert len(short.encode()) <= TASK_RESULT_MAX_BYTES
    assert short.startswith(CUT)
    assert short.endswith("end")
    assert shortened("ok") == "ok"
