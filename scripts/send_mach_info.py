#!/usr/bin/env python3
"""Has kaalia's daemon read this machine and report it to the marketplace now: `kaalia send-report`.

At the path that hosts know. Any Python starts it; the installed kaalia does the work.
"""

import os
import sys

MODULE = "kaalia.cli.commands.send_report"
INSTALLED = os.environ.get("KAALIA_PYTHON", "/opt/kaalia/current/bin/python")

if __name__ == "__main__":
    if not os.access(INSTALLED, os.X_OK):
        sys.exit(f"cannot run: there is no {INSTALLED}. Remedy: run install.sh, or name a Python in KAALIA_PYTHON")
    os.execv(INSTALLED, [INSTALLED, "-P", "-m", MODULE, *sys.argv[1:]])
