"""What kaalia puts into a container of mode ssh or jupyter before its first start. Mode args adds nothing."""

import io
import tarfile

from kaalia.model.workload import LaunchMode, WorkloadSpec

LAUNCH_PATH = "/.launch"

LAUNCH = """\
#!/bin/sh
# Started by kaalia instead of the image's entrypoint: runs /root/onstart.sh in the background, with its output
# in the container log, and stays until it is told to stop. Plain POSIX sh: it must run in any image.
leave() {
    trap '' TERM INT
    kill -TERM -1 2> /dev/null
    wait
    exit 0
}
trap leave TERM INT

if [ -s /root/onstart.sh ]; then
    chmod +x /root/onstart.sh
    first=
    read -r first < /root/onstart.sh
    case $first in
        '#!'*) /root/onstart.sh & ;;
        *) if command -v bash > /dev/null 2>&1; then bash /root/onstart.sh & else sh /root/onstart.sh & fi ;;
    esac
fi

# A shell that waits for a child of its own also reaps the orphans that the kernel gives to process 1.
while :; do
    sleep 86400 &
    wait $!
done
"""


def archive(spec: WorkloadSpec, contract_id: int) -> bytes | None:
    """The tar to unpack at `/` of the created container; None when the launch mode adds nothing."""
    if spec.launch_mode is LaunchMode.ARGS:
        return None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, LAUNCH_PATH, LAUNCH, 0o755)
        # The image may have no /root; without this entry the engine would make one that everyone may write to.
        root = tarfile.TarInfo("root")
        root.type, root.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(root)
        _add(tar, "/root/onstart.sh", _unix_lines(spec.onstart or ""), 0o755)
        _add(tar, "/root/.vast_containerlabel", f"C.{contract_id}\n", 0o644)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _unix_lines(text: str) -> str:
    """Scripts are often pasted with Windows line ends, which no shell understands; the last line gets its end."""
    lines = text.replace("\r\n", "\n")
    return lines if not lines or lines.endswith("\n") else lines + "\n"
