"""The process that delivers: what a receiver gets, what of his answers is believed, and that he cannot hold it up."""

import json
import re
import time
from collections.abc import Iterator
from email import message_from_string, policy
from pathlib import Path

import psutil
import pytest

from kaalia.config_notify import MailConfig, WebhookConfig
from kaalia.contracts.notification import Event, Occurrence, State, Told
from kaalia.notify.deliver import ALL_S, TRY_S, deliver
from kaalia.notify.order import Order, Outcome, Parcel, Verdict
from kaalia.notify.secret import Signer
from kaalia.notify.service import DELIVER_TIMEOUT_S
from kaalia.notify.service import deliver as deliver_by_process
from kaalia.wire import notification as wire
from tests.notify.test_secret import ED_SECRET, HMAC_SECRET
from tests.support.clock import START, FakeClock
from tests.support.owner import Mailbox, Receiver, certificate, mailbox, receiver, secret_file, silent_port

ROOT = Path(__file__).parents[2]


def parcel(number: int = 1, message: str = "cannot read GPU 3") -> Parcel:
    told = Told(
        Occurrence(Event.ISSUE_DETECTED, "k", message, START, code="gpu_lost", severity="critical"), State.BEGAN
    )
    return Parcel(message_id=f"msg_{number}", document=wire.encode(told, 12, "rack-7", START))


def hook(to: Receiver, folder: Path, secret: str = HMAC_SECRET) -> WebhookConfig:
    return WebhookConfig(url=to.url, secret_file=secret_file(folder / "secret", secret))


def sent(order: Order, try_s: float = 5) -> list[Outcome]:
    return list(deliver(order, FakeClock(), try_s))


@pytest.fixture
def to() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


@pytest.mark.parametrize("secret", [HMAC_SECRET, ED_SECRET])
def test_the_example_of_the_documents_verifies_what_comes(to: Receiver, tmp_path: Path, secret: str) -> None:
    config = hook(to, tmp_path, secret)
    assert [one.verdict for one in sent(Order(webhook=config, parcels=(parcel(),)))] == [Verdict.SENT]
    (got,) = to.got
    example: dict[str, object] = {}
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/notifications.md").read_text(), re.DOTALL)
    exec(compile(code, "docs/notifications.md", "exec"), example)
    verify = example["verify"]
    assert callable(verify)
    shared = Signer(config.secret_file).public_key or secret
    now = START.timestamp()

    assert verify(shared, got.headers, got.body, now)["data"]["code"] == "gpu_lost"
    for bad in (
        (shared, got.headers, got.body + b" ", now),
        (shared, {**got.headers, "webhook-id": "msg_2"}, got.body, now),
        (shared, got.headers, got.body, now + 600),
        (shared.replace("A", "B").replace("M", "N"), got.headers, got.body, now),
    ):
        with pytest.raises(ValueError):
            verify(*bad)


def test_what_is_sent_is_what_the_documents_say(to: Receiver, tmp_path: Path) -> None:
    sent(Order(webhook=hook(to, tmp_path), parcels=(parcel(),)))

    (got,) = to.got
    assert got.path == "/hook?token=hush-path"
    assert got.headers["webhook-id"] == "msg_1"
    assert got.headers["webhook-timestamp"] == f"{START.timestamp():.0f}"
    body = json.loads(got.body)
    assert body["type"] == "issue_detected.began"
    assert body["data"]["machine_id"] == 12
    assert body["data"]["machine"] == "rack-7"


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.SENT),
        (204, Verdict.SENT),
        (302, Verdict.FAILED),
        (307, Verdict.FAILED),
        (400, Verdict.REFUSED),
        (401, Verdict.FAILED),
        (404, Verdict.FAILED),
        (429, Verdict.FAILED),
        (500, Verdict.FAILED),
    ],
)
def test_only_the_status_counts_and_no_redirect_is_followed(
    to: Receiver, tmp_path: Path, status: int, verdict: Verdict
) -> None:
    to.answers = [status]

    (outcome,) = sent(Order(webhook=hook(to, tmp_path), parcels=(parcel(),)))

    assert outcome.verdict is verdict
    assert len(to.got) == 1
    assert "script" not in outcome.text


def test_the_first_failure_ends_a_batch_and_a_refusal_does_not(to: Receiver, tmp_path: Path) -> None:
    to.answers = [200, 422, 503]

    outcomes = sent(Order(webhook=hook(to, tmp_path), parcels=tuple(parcel(number) for number in range(5))))

    assert [one.verdict for one in outcomes] == [Verdict.SENT, Verdict.REFUSED, Verdict.FAILED]
    assert len(to.got) == 3


def test_what_was_sent_to_a_slow_receiver_is_told_before_the_time_is_over(to: Receiver, tmp_path: Path) -> None:
    """Else the process is ended, nobody knows what was sent, and all of it is sent again, for ever."""
    order = Order(webhook=hook(to, tmp_path), parcels=tuple(parcel(number) for number in range(5)))

    outcomes = list(deliver(order, FakeClock(), 5, all_s=0))

    assert [one.verdict for one in outcomes] == [Verdict.SENT]
    assert len(to.got) == 1


def test_the_times_fit_into_each_other() -> None:
    """The last message is begun just in time, and takes its own."""
    assert ALL_S + TRY_S < DELIVER_TIMEOUT_S


@pytest.mark.parametrize("answer", ["hang", "drip", "flood"])
def test_who_never_ends_his_answer_is_cut_off(to: Receiver, tmp_path: Path, answer: str) -> None:
    to.answers = [answer]
    began_s = time.monotonic()

    (outcome,) = sent(Order(webhook=hook(to, tmp_path), parcels=(parcel(),)), try_s=0.5)

    assert (outcome.verdict, outcome.code) == (Verdict.FAILED, "notify_unreachable")
    assert "no answer within 0.5 s" in outcome.text
    assert time.monotonic() - began_s < 30


def test_who_accepts_no_connection_is_cut_off(tmp_path: Path) -> None:
    listener, port = silent_port()
    with listener:
        config = hook(Receiver(f"http://127.0.0.1:{port}/x"), tmp_path)
        (outcome,) = sent(Order(webhook=config, parcels=(parcel(),)), try_s=0.5)

    assert outcome.verdict is Verdict.FAILED


def test_nobody_there_is_a_failure_that_hides_the_path(tmp_path: Path) -> None:
    config = hook(Receiver("https://127.0.0.1:9/hush-path"), tmp_path)

    (outcome,) = sent(Order(webhook=config, parcels=(parcel(),)))

    assert outcome.text == "cannot reach 127.0.0.1:9: Connection refused"
    assert "hush" not in repr(config)


def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = certificate(tmp_path)
    with receiver(tmp_path) as to:
        order = Order(webhook=hook(to, tmp_path), parcels=(parcel(),))
        (outcome,) = sent(order)
        assert (outcome.verdict, outcome.code) == (Verdict.FAILED, "notify_untrusted")
        assert to.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        (outcome,) = sent(order)
        assert outcome.verdict is Verdict.SENT


LOGIN = ("me@example.com", "hush-hush-hush")


def mail(box: Mailbox, folder: Path, **changes: object) -> MailConfig:
    plain: dict[str, object] = {
        "host": "127.0.0.1",
        "port": box.port,
        "login_file": secret_file(folder / "login", *LOGIN),
        "sender": "kaalia@example.com",
        "to": ["me@example.com", "you@example.com"],
    }
    return MailConfig.model_validate({**plain, **changes})


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_storm_is_one_mail_over_tls_with_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    evil = "a renter reports: x\r\nBcc: all@example.com ü"
    with mailbox(tmp_path, is_implicit=tls == "implicit") as box:
        box.logins = dict([LOGIN])
        parcels = (parcel(1, evil), parcel(2), parcel(3))
        outcomes = sent(Order(mail=mail(box, tmp_path, tls=tls), parcels=parcels))

    assert [one.verdict for one in outcomes] == [Verdict.SENT] * 3
    (got,) = box.mails
    assert (got.login, got.sender, got.is_encrypted) == (LOGIN[0], "kaalia@example.com", True)
    assert got.to == ["me@example.com", "you@example.com"]
    read = message_from_string(got.text, policy=policy.default)
    assert read["Bcc"] is None
    assert read["Subject"].startswith("[kaalia] rack-7 (machine 12): issue detected, began and 2 more:")
    assert read["Message-ID"] == "<msg_1@example.com>"
    assert read.get_content().count("cannot read GPU 3") == 2


@pytest.mark.parametrize(
    ("answers", "verdict", "code"),
    [
        ({"GREETING": "554 go away"}, Verdict.FAILED, "notify_refused"),
        ({"AUTH": "535 wrong hush-told"}, Verdict.FAILED, "notify_login_refused"),
        ({"MAIL": "550 no"}, Verdict.FAILED, "notify_refused"),
        ({"RCPT": "550 no"}, Verdict.FAILED, "notify_not_understood"),
        ({"TAKEN": "552 too much"}, Verdict.REFUSED, "notify_refused"),
        ({"TAKEN": "451 later"}, Verdict.FAILED, "notify_refused"),
        ({"EHLO": "garbage"}, Verdict.FAILED, "notify_not_understood"),
        ({"EHLO": "endless"}, Verdict.FAILED, "notify_unreachable"),
        ({"QUIT": "endless"}, Verdict.SENT, ""),
    ],
)
def test_what_a_mail_server_can_do_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], verdict: Verdict, code: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    with mailbox(tmp_path) as box:
        box.logins, box.answers = dict([LOGIN]), answers
        (outcome,) = sent(Order(mail=mail(box, tmp_path), parcels=(parcel(),)), try_s=2)

    assert (outcome.verdict, outcome.code) == (verdict, code)
    assert "hush" not in outcome.text


def test_without_tls_no_login_is_sent(tmp_path: Path) -> None:
    with mailbox() as box:
        box.logins = dict([LOGIN])
        (outcome,) = sent(Order(mail=mail(box, tmp_path), parcels=(parcel(),)))

    assert outcome.verdict is Verdict.FAILED
    assert box.mails == []


async def test_it_works_as_a_process_and_shows_nobody_a_secret(to: Receiver, tmp_path: Path) -> None:
    to.answers = ["hang"]
    order = Order(webhook=hook(to, tmp_path), parcels=(parcel(),))
    before = psutil.Process().children()  # an engine of other tests

    (killed,) = await deliver_by_process(order, timeout_s=3)
    (outcome,) = await deliver_by_process(order)

    assert (killed.verdict, killed.code) == (Verdict.FAILED, "command_timeout")
    assert "hush" not in killed.text
    assert outcome.verdict is Verdict.SENT
    assert psutil.Process().children() == before
