"""The benchmark of GPUs runs whole on a CPU, on a few small cells."""

import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_measures_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    import gpu  # noqa: PLC0415 - found by the path above

    table = gpu.main(["--device", "cpu", "--quick", "--threads", "1", "--out", str(tmp_path / "gpu.csv")])
    assert len(table) == len(gpu.plan([256, 64])) == 19
    assert (table["cells_per_second"] > 0).all()
    assert set(table["task"]) == {"random", "programs", "byol", "barlow_twins"}
    assert (tmp_path / "gpu.csv").exists()


def test_the_benchmark_of_a_gpu_needs_one_unless_told(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    import gpu  # noqa: PLC0415 - found by the path above

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch finds no CUDA GPU"):
        gpu.main([])
