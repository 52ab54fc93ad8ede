"""Feed damaged and hostile files to all that reads files, and find what answers with anything but our own errors.

    python -m fuzz images --count 10000 --seed 0
    python -m fuzz --replay runs/fuzz/images-0-123.zip

Small files of every kind are written (those of the tests' layouts among them), one or two of them are mutated for
each case, and the set is read as a user's would be. What is read, and how, stands in a module for each kind; what
is done to bytes, JSON, XML, YAML, PNG, zip and tar in `mutations`; limits and the reading process in `worker`.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the layouts that the tests write
os.environ.setdefault("OMP_NUM_THREADS", "1")  # time is measured on one thread
