"""A browser that trusts the marketplace's root opens Jupyter by HTTPS, runs a cell and sees its output.

The renter's machine is on the far side of a network. Rented by the real client: an image with JupyterLab; one with
Python only, where Jupyter is installed into a folder of its own for another account than root; one behind a firewall,
by a relay. The certificate is renewed under a running kernel. Then images where there can be no Jupyter: ssh works, and
the renter is told a code. Screenshots are kept in .cache/screenshots.
"""

import json
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from tests.proofs.access import changes
from tests.proofs.report import Report, Say
from tests.support.browser import Browser, browsing
from tests.support.kinds import import_kinds, name_of
from tests.support.notebooks import BARE_IMAGE, CACHE, LAB_IMAGE, PYTHON_IMAGE, import_lab, import_python
from tests.support.relayed import HOST, RELAY, Far, far
from tests.support.scene import scene
from tests.support.ssh import Ssh, new_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SCREENSHOTS = CACHE / "screenshots"
LIFE_DAYS = "0.0008"
"""69 s: a certificate is renewed after 46 s."""
DOCUMENTED = ("/.kaalia", "/.launch", "/etc", "/root", "/run", "/home", "/tmp", "/dev", "/proc", "/sys")
"""What of an image may change while Jupyter is installed and runs."""
CELL = "import os; x = 41 + 1; print(x, 'by', os.environ['VAST_CONTAINERLABEL'], os.getuid())"
OUTPUTS = "[...document.querySelectorAll('.jp-OutputArea-output')].map(one => one.innerText).join('|')"
RUN_AGAIN_S = 3.0
PROPOSAL = ".jp-Dialog button.jp-mod-accept"
KERNEL_IS_IDLE = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"


class Renter:
    """Rents by the real client, and looks from the far side of the network."""

    def __init__(self, stack: Stack, there: Far, folder: Path, report: Report, say: Say) -> None:
        self.stack, self.there, self.folder, self.report, self.say = stack, there, folder, report, say
        self.key, public = new_key(folder, "renter")
        stack.renter.run("create", "ssh-key", public)
        self.root = folder / "root.cer"
        with urllib.request.urlopen(f"{stack.url}/static/jvastai_root.cer") as reply:
            self.root.write_bytes(reply.read())

    def rent(self, image: str, *flags: str) -> int:
        """An instance that runs. sshd does not wait for Jupyter: it answers at once."""
        offer = wait_until("an offer", lambda: self.stack.rentable_offer(1), 60)
        began = time.monotonic()
        made = self.stack.renter.json("create", "instance", str(offer), "--image", image, "--disk", "3", *flags)
        instance = int(made["new_contract"])
        self.stack.wait_status(instance, "running")
        wait_until("sshd to answer", lambda: self.ssh(instance).run("true").returncode == 0, 30)
        self.report.worst("rented_to_ssh_s", time.monotonic() - began)
        self.report.counts["rented"] += 1
        return instance

    def row(self, instance: int) -> dict[str, Any]:
        return self.stack.instance(instance) or {}

    def ssh(self, instance: int) -> Ssh:
        """By the machine itself, whoever is shut out: what is proven here is Jupyter."""
        ports = LocalClient(self.stack.socket).contract(instance).ports
        port = next(one.host_port for one in ports if one.container_port == 22)
        return Ssh(self.key, port, HOST, hosts=f"known_hosts.{instance}")

    def url(self, instance: int, page: str) -> str:
        row = self.row(instance)
        place = f"{row['ssh_host']}:{row['ssh_port']}"
        if "8080/tcp" in row["ports"]:
            place = f"{row['public_ipaddr']}:{row['ports']['8080/tcp'][0]['HostPort']}"
        return f"https://{place}{page}?token={row['jupyter_token']}"

    @contextmanager
    def browser(self, name: str, *, trusts: bool = True) -> Iterator[Browser]:
        at_renters = ("ip", "netns", "exec", "renter")
        with browsing(self.folder / f"browser-{name}", self.root if trusts else None, *at_renters) as browser:
            yield browser

    def opened(self, browser: Browser, url: str, selector: str, timeout_s: float = 120) -> str:
        """Until the page shows the element; the last fault before, or nothing."""
        faults: list[str] = []

        def there() -> bool:
            if browser.value(f"document.querySelector({json.dumps(selector)}) !== null"):
                return True
            if not str(browser.value("location.href")).startswith("https:"):
                faults.append(browser.open(url))
            return False

        try:
            wait_until(f"{selector} on {url.partition('?')[0]}", there, timeout_s, 1)
        except TimeoutError:
            browser.screenshot(SCREENSHOTS / "failed.png")
            raise
        return next((fault for fault in faults if "CERT" in fault), "")

    def told(self, instance: int, code: str) -> bool:
        try:
            return bool(wait_until(code, lambda: f"[{code}]" in str(self.row(instance).get("status_msg")), 90, 0.5))
        except TimeoutError:
            return False


def prove(seed: int, rounds: int, say: Say) -> Report:
    report = Report(say)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kaalia-jupyter-")))
        there = cleanup.enter_context(far(folder))
        options: dict[str, Any] = {"marketplace_args": ("--certificate-days", LIFE_DAYS)}
        stack, _ = cleanup.enter_context(scene("2xRTX_4090", public_ip=HOST, **options))
        import_kinds(stack.engine, ["busybox"])
        import_lab(stack.engine)
        import_python(stack.engine)
        there.introduce(stack)
        there.start(stack)
        stack.list_machine()
        renter = Renter(stack, there, folder, report, say)
        for _ in range(rounds or 1):
            lab(renter)
            installed(renter)
            impossible(renter)
        relayed(renter)
    return report


def lab(renter: Renter) -> None:
    """JupyterLab of the image, directly; a kernel outlives the certificate."""
    report, stack = renter.report, renter.stack
    instance = renter.rent(LAB_IMAGE, "--jupyter-lab", "--direct", "--jupyter-dir", "/work")
    with renter.browser("stranger", trusts=False) as stranger:
        wait_until("Jupyter", lambda: "REFUSED" not in stranger.open(renter.url(instance, "/lab")), 60, 1)
        fault = stranger.open(renter.url(instance, "/lab"))
        report.check("a browser that does not know the root warns", fault == "net::ERR_CERT_AUTHORITY_INVALID", fault)
    with renter.browser("lab") as browser:
        began = time.monotonic()
        cards = '.jp-LauncherCard[data-category="Notebook"]'
        fault = renter.opened(browser, renter.url(instance, "/lab"), cards)
        report.check("one that knows it does not", fault == "", fault)
        browser.click(cards)
        run_cell(renter, browser, CELL, f"42 by C.{instance} 0")
        report.worst("lab_opened_to_output_s", time.monotonic() - began)
        path = str(browser.value("location.pathname"))
        report.check("it begins in jupyter_dir", "/tree/work/" in path or "/work/" in path, path)
        browser.screenshot(SCREENSHOTS / "lab.png")
        first = certificate(renter, instance)
        pid = jupyter_pid(renter, instance)
        wait_until("the next certificate", lambda: certificate(renter, instance) != first, 150, 2)
        renter.say("the certificate was renewed")
        run_cell(renter, browser, "print('still', x)", "still 42")
        report.check("nothing restarted for it", jupyter_pid(renter, instance) == pid, pid)
        browser.screenshot(SCREENSHOTS / "renewed.png")
    token = str(renter.row(instance)["jupyter_token"])
    argv = renter.ssh(instance).run("cat /proc/[0-9]*/cmdline").stdout
    report.check("the token is in no command line", token not in argv)
    report.check("the token is not in the log", token not in stack.renter.run("logs", str(instance)).stdout)
    stack.destroy(instance)
    renter.say("lab: a cell was run, and one under the next certificate")


def installed(renter: Renter) -> None:
    """The notebook, installed for an account that is not root; the image's own files stay as they are."""
    report, stack = renter.report, renter.stack
    flags = ("--env", "-e PIP_NO_INDEX=1 -e PIP_FIND_LINKS=/wheels", "--user", "worker")
    instance = renter.rent(PYTHON_IMAGE, "--jupyter", "--direct", *flags)
    began = time.monotonic()
    progress = wait_until("progress", lambda: "packages" in str(renter.row(instance).get("status_msg")), 60, 0.2)
    report.check("the installation's progress is told", bool(progress))
    write = "cat > /tmp/first.ipynb"
    renter.ssh(instance).run(f"{write}; chmod 666 /tmp/first.ipynb", stdin=json.dumps(NOTEBOOK))
    with renter.browser("notebook") as browser:
        renter.opened(browser, renter.url(instance, "/notebooks/tmp/first.ipynb"), ".jp-Notebook .cm-content", 150)
        report.worst("installed_and_opened_s", time.monotonic() - began)
        run_cell(renter, browser, CELL, f"42 by C.{instance} 1000")
        browser.screenshot(SCREENSHOTS / "notebook.png")
    touched = {path for path in changes(stack, instance) if not path.startswith(DOCUMENTED)}
    report.check("the image's packages are as they were", not touched, sorted(touched)[:20])
    stack.destroy(instance)
    renter.say("notebook: installed for worker, a cell was run")


def impossible(renter: Renter) -> None:
    """Without Python, without pip, without a network: ssh all the same, and a code."""
    cases = (
        (name_of("busybox"), "jupyter_no_python", ()),
        (BARE_IMAGE, "jupyter_no_pip", ()),
        (PYTHON_IMAGE, "jupyter_no_network", ()),
        (PYTHON_IMAGE, "jupyter_install_failed", ("--env", "-e PIP_NO_INDEX=1")),
    )
    for image, code, flags in cases:
        instance = renter.rent(image, "--jupyter", "--direct", *flags)
        renter.report.check(f"{code} is told", renter.told(instance, code), renter.row(instance).get("status_msg"))
        done = renter.ssh(instance).run("echo in")
        renter.report.check(f"{code}: ssh works", done.stdout == "in\n", done)
        renter.stack.destroy(instance)
    renter.say("images without a way to Jupyter were told so")


def relayed(renter: Renter) -> None:
    """Nobody reaches the machine any more: by the relay, whose address is in the certificate."""
    renter.there.shut()
    report = renter.report
    report.check("the host is shut", not renter.there.opens(HOST, 22))
    offer = wait_until("an offer", lambda: renter.stack.rentable_offer(1), 60)
    words = ("--image", LAB_IMAGE, "--disk", "3", "--jupyter-lab")
    instance = int(renter.stack.renter.json("create", "instance", str(offer), *words)["new_contract"])
    renter.stack.wait_status(instance, "running")
    report.check("the client is sent to the relay", renter.row(instance)["ssh_host"] == RELAY, renter.row(instance))
    with renter.browser("relayed") as browser:
        cards = '.jp-LauncherCard[data-category="Notebook"]'
        fault = renter.opened(browser, renter.url(instance, "/lab"), cards)
        report.check("the relay's address is certified", fault == "", fault)
        browser.click(cards)
        run_cell(renter, browser, CELL, f"42 by C.{instance} 0")
        browser.screenshot(SCREENSHOTS / "relayed.png")
    renter.stack.destroy(instance)
    renter.say("behind the firewall: a cell was run through the relay")


NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "cells": [{"cell_type": "code", "id": "a", "source": "", "metadata": {}, "outputs": [], "execution_count": None}],
}


def run_cell(renter: Renter, browser: Browser, source: str, wanted: str) -> None:
    """Type it into the last cell as a person does, run it, and see what comes of it."""
    editors = ".jp-Notebook .jp-Cell:last-of-type .cm-content"
    wait_until("an editor", lambda: browser.value(f"document.querySelector('{editors}') !== null"), 60, 0.5)
    wait_until("the kernel", lambda: browser.value(KERNEL_IS_IDLE), 60, 0.5)
    wait_until("the editor to take it", lambda: typed(browser, editors, source), 30, 1)
    browser.value(f"document.querySelector('{editors}').closest('.jp-Cell').id = 'asked'")
    browser.press("Enter", 13, shift=True)
    time.sleep(1)  # until the page has marked the cell as asked for
    try:
        wait_until("the output", lambda: shows(browser, wanted), 60, RUN_AGAIN_S)
    except TimeoutError:
        browser.screenshot(SCREENSHOTS / "failed.png")
    browser.value("document.querySelector('#asked').id = ''")
    seen = str(browser.value(OUTPUTS))
    renter.report.counts["cells"] += 1
    renter.report.check(f"a cell shows {wanted!r}", wanted in seen, seen[-300:])


def shows(browser: Browser, wanted: str) -> bool:
    """A page whose kernel is not there yet forgets a cell, or asks which kernel is meant: a person runs it again."""
    if wanted in str(browser.value(OUTPUTS)):
        return True
    if browser.value(f"document.querySelector('{PROPOSAL}') !== null"):
        browser.click(PROPOSAL)
    elif browser.value("document.querySelector('#asked .jp-InputPrompt').innerText.trim()") == "[ ]:":
        browser.click("#asked .cm-content")
        browser.press("Enter", 13, shift=True)
    return False


def typed(browser: Browser, editors: str, source: str) -> bool:
    """A page that still moves loses what is typed."""
    browser.click(editors)
    shown = f"document.querySelector('{editors}').innerText"
    if not str(browser.value(shown)).strip():
        browser.type(source)
    return source in str(browser.value(shown))


def certificate(renter: Renter, instance: int) -> str:
    place = renter.url(instance, "").removeprefix("https://").partition("?")[0]
    host, _, port = place.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def jupyter_pid(renter: Renter, instance: int) -> str:
    is_it = "tr '\\0' ' ' < $at/cmdline | grep -q '[-]m jupyterlab '"
    script = f"for at in /proc/[0-9]*; do {is_it} && echo ${{at#/proc/}}; done"
    return renter.ssh(instance).run(script).stdout.strip()
