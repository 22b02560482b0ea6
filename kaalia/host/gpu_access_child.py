"""A process of its own that looks whether containers may still use their GPUs: ids on stdin, lines on stdout.

See `gpu_access`. It opens no device and runs nothing inside: with cgroups of the first version it reads the rules, with
the second, whose rules are a program that nobody can read, it asks the kernel from within the container's cgroup, where
it is for some microseconds. Only what the interpreter has loaded anyway is imported: a look costs some milliseconds.
"""

# pathlib would double the time of a look
# ruff: noqa: PTH110, PTH123, PTH208
import os
import stat
import sys

PLACES = ("system.slice/docker-{}.scope", "docker/{}")
"""By Docker's two cgroup drivers, systemd and cgroupfs."""
FORBIDDEN = 1
"""EPERM."""


def main() -> int:
    base = sys.argv[1]
    is_second = os.path.exists(f"{base}/cgroup.controllers")
    tree = base if is_second else f"{base}/devices"
    home = own_place(base) if is_second else ""
    write("/proc/self/oom_score_adj", "1000")  # a container without memory loses this process, and none of its own
    for line in sys.stdin:
        container_id = line.strip()
        try:
            for told in look(tree, container_id, home):
                say(container_id, *told)
            say(container_id, "end")
        except OSError as error:
            say(container_id, "unseen", error.errno or 0)
        sys.stdout.flush()
    return 0


def look(tree: str, container_id: str, home: str) -> list[tuple[str, int]]:
    """(device, errno; 0: it may be used) of each GPU's device node. Raises OSError."""
    folders = [f"{tree}/{place.format(container_id)}" for place in PLACES]
    folder = next((one for one in folders if os.path.exists(f"{one}/cgroup.procs")), "")
    process = read(f"{folder}/cgroup.procs").split(None, 1)[:1] if folder else []
    if not process:
        raise FileNotFoundError(2, container_id)
    devices = nodes(f"/proc/{process[0]}/root/dev")
    if not home:
        rules = [rule.split() for rule in read(f"{folder}/devices.list").splitlines()]
        return [(name, 0 if is_allowed(rules, number) else FORBIDDEN) for name, number in devices]
    if "frozen 1" in read(f"{folder}/cgroup.events"):
        raise BlockingIOError(11, "it is paused, and so would be this process")
    write(f"{folder}/cgroup.procs", "0")
    try:
        # The kernel asks the cgroup for `access` as for `open`; the driver does not hear of it.
        paths = [f"/proc/{process[0]}/root/dev/{name}" for name, _ in devices]
        return [(name, asked(path)) for (name, _), path in zip(devices, paths, strict=True)]
    finally:
        write(f"{home}/cgroup.procs", "0")


def nodes(folder: str) -> list[tuple[str, int]]:
    """(name, device number) of nvidia0 and the like. What a tenant put there instead of a device is none."""
    found = []
    for name in sorted(os.listdir(folder)):
        if name[:6] == "nvidia" and name[6:].isdecimal():
            status = os.lstat(f"{folder}/{name}")
            if stat.S_ISCHR(status.st_mode):
                found.append((name, status.st_rdev))
    return found


def is_allowed(rules: list[list[str]], number: int) -> bool:
    """By devices.list: `c 195:* rwm`."""
    for kind, place, access in (rule for rule in rules if len(rule) == 3):
        major, _, minor = place.partition(":")
        fits = major in ("*", str(os.major(number))) and minor in ("*", str(os.minor(number)))
        if kind in ("a", "c") and fits and "r" in access and "w" in access:
            return True
    return False


def asked(path: str) -> int:
    return 0 if os.access(path, os.R_OK | os.W_OK) else FORBIDDEN


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def own_place(base: str) -> str:
    return base + next(line[3:] for line in read("/proc/self/cgroup").splitlines() if line[:3] == "0::")


def read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
