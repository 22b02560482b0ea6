"""The section `notify`: what is refused, in words that name the key, and that hide a webhook's URL."""

from pathlib import Path

import pytest

from kaalia.config import load
from kaalia.errors import ConfigError

HOOK = "secret_file: /etc/s"
MAIL = "sender: k@example.com, to: me@example.com"


def read(folder: Path, text: str, **environment: str) -> object:
    (folder / "kaalia.yaml").write_text(text)
    return load(folder / "kaalia.yaml", environment)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{{webhooks: {{a: {{url: 'http://hooks.example/hush', {HOOK}}}}}}}", "must begin with https://"),
        (f"{{webhooks: {{a: {{url: 'https://u:hush@hooks.example/', {HOOK}}}}}}}", "without user, password"),
        (f"{{webhooks: {{a: {{url: 'ftp://hooks.example/hush', {HOOK}}}}}}}", "must be a URL"),
        (f"{{webhooks: {{a: {{url: 'https://hooks.example:99999/hush', {HOOK}}}}}}}", "must be a URL"),
        (f'{{webhooks: {{a: {{url: "https://x.example/hush\\r\\nX: y", {HOOK}}}}}}}', "must be a URL"),
        ("{webhooks: {a: {url: 'https://hooks.example/hush'}}}", "notify.webhooks.a.secret_file"),
        ("{webhooks: {a: {url: 'https://hooks.example/hush', secret_file: s}}}", "must be an absolute path"),
        (f"{{webhooks: {{a: {{url: 'https://h.example/hush', {HOOK}, events: [all]}}}}}}", "notify.webhooks.a.events"),
        (f"{{webhooks: {{A B: {{url: 'https://hooks.example/hush', {HOOK}}}}}}}", "notify.webhooks.A B"),
        (f"{{mails: {{a: {{host: 'x y', {MAIL}}}}}}}", "notify.mails.a.host"),
        ("{mails: {a: {host: m.example, sender: k, to: me@example.com}}}", "must be a plain mail address"),
        ("{mails: {a: {host: m.example, sender: k@example.com, to: []}}}", "notify.mails.a.to"),
        ('{mails: {a: {host: m.example, sender: k@example.com, to: "x@y.example\\nz"}}}', "notify.mails.a.to"),
        (f"{{mails: {{a: {{host: m.example, tls: 'off', {MAIL}}}}}}}", "must have tls: starttls or implicit"),
        (f"{{mails: {{a: {{host: m.example, port: 0, {MAIL}}}}}}}", "notify.mails.a.port"),
        ("{delay_s: -1}", "notify.delay_s"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"notify: {text}\n")

    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_misspelt_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"notify: {{webhooks: {{a: {{ulr: x, url: 'https://h.example/', {HOOK}}}}}}}\n")

    assert "notify.webhooks.a.ulr" in str(caught.value)
    assert "notify.webhooks.NAME.url" in caught.value.problem.remedy


def test_more_channels_than_a_person_has_are_refused(tmp_path: Path) -> None:
    hooks = ", ".join(f"h{number}: {{url: 'https://h.example/hush', {HOOK}}}" for number in range(9))

    with pytest.raises(ConfigError, match="at most 8") as caught:
        read(tmp_path, f"notify: {{webhooks: {{{hooks}}}}}\n")
    assert "hush" not in str(caught.value)


def test_variables_reach_it(tmp_path: Path) -> None:
    config = load(
        _empty(tmp_path),
        {
            "KAALIA_NOTIFY__WEBHOOKS__OPS__URL": "https://h.example/x",
            "KAALIA_NOTIFY__WEBHOOKS__OPS__SECRET_FILE": "/etc/s",
            "KAALIA_NOTIFY__WEBHOOKS__OPS__EVENTS": "disk_low, machine_offline",
        },
    )

    hook = config.notify.webhooks["ops"]
    assert (hook.place, hook.events) == ("h.example", ("disk_low", "machine_offline"))


def _empty(folder: Path) -> Path:
    (folder / "kaalia.yaml").write_text("")
    return folder / "kaalia.yaml"
