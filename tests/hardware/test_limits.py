"""Control groups of both generations, laid out as files."""

from pathlib import Path

import pytest

from grainline.hardware import processor
from grainline.hardware.limits import cpu_quota, memory_limit

GIB = 1 << 30


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = {
    "proc/self/cgroup": "0::/jobs/mine\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/jobs/cpu.max": "350000 100000\n",
    "sys/fs/cgroup/jobs/mine/cpu.max": "max 100000\n",
    "sys/fs/cgroup/jobs/memory.max": f"{8 * GIB}\n",
    "sys/fs/cgroup/jobs/memory.current": f"{7 * GIB}\n",
    "sys/fs/cgroup/jobs/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 5\n",
    "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
    "sys/fs/cgroup/jobs/mine/memory.current": f"{GIB}\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
    # As inside a container: the mount is the container's own group, and the path is the host's.
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {2 * GIB}\n",
}


def test_version_2_counts_the_tightest_ancestor(tmp_path: Path) -> None:
    root = lay_out(tmp_path, V2)
    assert cpu_quota(root) == 3.5
    assert memory_limit(root) == (8 * GIB, 2 * GIB)


def test_version_1_in_a_container(tmp_path: Path) -> None:
    root = lay_out(tmp_path, V1)
    assert cpu_quota(root) == 1.5
    assert memory_limit(root) == (4 * GIB, 3 * GIB)


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    unlimited = {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
    }
    root = lay_out(tmp_path, V1 | unlimited)
    assert cpu_quota(root) is None
    assert memory_limit(root) is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux lays out its processors as files")
class TestProcessor:
    def test_memory_is_what_the_group_leaves(self, tmp_path: Path) -> None:
        meminfo = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 0 kB\nMemAvailable: {32 * GIB // 1024} kB\n"
        assert processor.memory(lay_out(tmp_path / "free", {"proc/meminfo": meminfo})) == (64 * GIB, 32 * GIB)
        assert processor.memory(lay_out(tmp_path / "bound", V2 | {"proc/meminfo": meminfo})) == (8 * GIB, 2 * GIB)

    def test_two_threads_of_a_core_are_one_core(self, tmp_path: Path) -> None:
        for cpu in range(8):
            folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
            lay_out(tmp_path, {f"{folder}/physical_package_id": f"{cpu // 4}", f"{folder}/core_id": f"{cpu // 2 % 2}"})
        assert processor.physical_cores(tmp_path, range(8)) == 4
        assert processor.physical_cores(tmp_path, [0, 1, 4]) == 2

    def test_the_quota_rounds_down_but_not_to_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processor, "physical_cores", lambda root, allowed: 8)
        root = lay_out(tmp_path, V2)
        assert processor.usable_cores(root) == 3
        lay_out(root, {"sys/fs/cgroup/jobs/mine/cpu.max": "50000 100000\n"})
        assert processor.usable_cores(root) == 1

    def test_features_in_peoples_words(self, tmp_path: Path) -> None:
        x86 = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
        lay_out(tmp_path, {"proc/cpuinfo": x86})
        assert processor.name(tmp_path) == "Fast CPU"
        assert processor.features(tmp_path) == ("avx2", "avx512", "avx512-bf16", "amx-bf16")
        arm = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm sve\nCPU part\t: 0xd40\n"
        lay_out(tmp_path, {"proc/cpuinfo": arm, "proc/device-tree/model": "A Board\0"})
        assert processor.name(tmp_path) == "A Board"
        assert processor.features(tmp_path) == ("neon", "bf16", "i8mm", "sve")


def test_omp_num_threads_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for said, threads in (("3", 3), ("1", 1), ("many", 8), ("0", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert processor.threads(8) == threads


def test_torchruns_own_setting_is_nobodys_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for said, threads in (("1", 8), ("3", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert processor.threads(8) == threads
