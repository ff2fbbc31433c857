"""Memory that was freed is given back."""

import platform
import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
import numpy as np
from selfcell.core.memory import give_back_unused, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
blocks = [np.ones(2**22) for _ in range(40)]
pins = [np.ones(10) for _ in range(5)]
del blocks
held = resident()
assert not give_back_unused(more_than=2**40) and resident() > held - 2**26
assert give_back_unused(more_than=2**26)
assert resident() < held - 2**29, (held, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory for us")
def test_freed_memory_that_is_kept_is_given_back_when_asked():
    subprocess.run([sys.executable, "-c", CODE], check=True)


PEAK = """
import numpy as np
from selfcell.core.memory import forget_peak, peak_memory

forget_peak()
before = peak_memory()
large = np.ones(2**25)
with_large = peak_memory()
del large
assert with_large - before > 2**27, (before, with_large)
forget_peak()
assert peak_memory() < with_large - 2**27, (with_large, peak_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process can be reset on Linux alone")
def test_the_peak_is_that_since_it_was_forgotten():
    subprocess.run([sys.executable, "-c", PEAK], check=True)
