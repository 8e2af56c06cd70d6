"""The benchmarks are scripts beside the package: their folder has to be on the path before they can be
imported.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
