"""`python -m kaalia.daemon`: the daemon's process, imported quickly and small, since tenants wait for it after a crash.

Most objects that are made now live as long as the process, so the garbage collector looks seldom; `run.main` sets it
to its usual pace.
"""

import gc
from runpy import run_module

from kaalia.host.heap import limit_arenas
from kaalia.sync import trust

if __name__ == "__main__":
    limit_arenas(2)
    gc.set_threshold(20_000)
    with trust.unread():
        run_module("kaalia.daemon.warm")
    run_module("kaalia.daemon.run", run_name="__main__", alter_sys=True)
