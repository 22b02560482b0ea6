"""python3 -m verification [FOLDER]: serve the progress on port 5000, run all stages, and serve on until it is ended.

FOLDER, by default this package's own, holds settings.json and work/.
"""

import sys
import tempfile
import threading
from pathlib import Path

from verification import door, stages
from verification.progress import Progress
from verification.settings import Settings


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    settings = Settings.read(folder)
    progress = Progress(settings.quiet_s)
    with tempfile.TemporaryDirectory(prefix="verification-") as keys:
        server = door.open_door(progress, settings.port, Path(keys))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stages.run(settings, progress)
    threading.Event().wait()  # the client reads the end, and then destroys the instance


if __name__ == "__main__":
    main()
