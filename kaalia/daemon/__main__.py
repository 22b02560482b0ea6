"""`python -m kaalia.daemon`: the daemon's process, imported quickly: how soon tenants are looked after again hangs on it.

Half of the start is the import of libraries. aiohttp reads all certificate authorities of the system meanwhile, for a
tenth of a second and without the interpreter's lock: a thread lets it do so beside everything else. Objects that are
made now live as long as the process, so the garbage collector would only count them over and over.
"""

import gc
import sys
from importlib import import_module
from threading import Thread


def main() -> int:
    gc.disable()
    Thread(target=import_module, args=("aiohttp",), daemon=True).start()
    run = import_module("kaalia.daemon.run")
    gc.freeze()
    gc.enable()
    return int(run.main())


if __name__ == "__main__":
    sys.exit(main())
