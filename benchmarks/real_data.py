"""The tables of ``docs/results.md``, from what a benchmark of ``plans/real.toml`` has found.

selfcell benchmark plans/real.toml --out real                     # hours on two cores; safe to stop and to go on
selfcell benchmark plans/real.toml --out real --only types_liu    # one target
python benchmarks/real_data.py real                               # tables of what is there; other targets stay
"""

import sys
from pathlib import Path

from real.tables import write_tables

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_tables(Path(sys.argv[1]))
