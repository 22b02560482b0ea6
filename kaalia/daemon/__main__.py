"""`python -m kaalia.daemon`: the daemon's process, imported quickly, since tenants wait for it after a crash.

Half of the start is the import of libraries. aiohttp reads all certificate authorities of the system meanwhile, for a
tenth of a second and without the interpreter's lock: a thread lets it do so beside everything else. Most objects that
are made now live as long as the process, so the garbage collector looks seldom; `run.main` sets it to its usual pace.
"""

import gc
from runpy import run_module
from threading import Thread

from kaalia.host.heap import limit_arenas

if __name__ == "__main__":
    limit_arenas(2)
    gc.set_threshold(20_000)
    Thread(target=run_module, args=("kaalia.daemon.warm",), daemon=True).start()
    run_module("kaalia.daemon.run", run_name="__main__", alter_sys=True)
