"""A secret that two machines share, from a file: so that it stands in no list of processes and no configuration."""

from pathlib import Path

from kaalia.errors import ConfigError

LEAST_CHARACTERS = 16


def read(path: Path) -> str:
    """Its first line. Raises ConfigError `speed_secret_invalid`."""
    try:
        with path.open(encoding="utf-8") as lines:
            text = lines.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = f"it cannot be read ({getattr(error, 'strerror', None) or 'no text'})"
    else:
        if len(text) >= LEAST_CHARACTERS:
            return text
        why = f"its first line has {len(text)} characters, and must have {LEAST_CHARACTERS} or more"
    raise ConfigError(
        "speed_secret_invalid",
        f"cannot use the secret file {path}: {why}",
        remedy=f"make one, and give both machines the same: (umask 077; head -c 24 /dev/urandom | base64 > {path})",
    )
