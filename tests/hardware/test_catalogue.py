"""The catalogue's figures, held against what the chips' own numbers give; and its looking up."""

import json

import pytest

from grainline.cli import main
from grainline.documents import Cluster, GrainlineError
from grainline.hardware.catalogue import ListedDevice, catalogue, plain

NVIDIA = "V100 A100-40 A100-80 A100-80-PCIe A10G L4 T4 L40S H100 H100-PCIe H200 B200"
DESKTOP = "RTX-3090 RTX-4090 RTX-5090 RTX-A6000"
OTHERS = "MI250X MI250X-GCD MI300X TPU-v4 TPU-v5e"
APPLE = "M1 M1-Pro M1-Max M1-Ultra M2 M2-Pro M2-Max M2-Ultra M3 M3-Pro M3-Max M4 M4-Pro M4-Max"
PROCESSORS = "Xeon-8480 EPYC-9654 Ryzen-9-7950X Core-i9-13900K"
LINKS = "NVLink-2 NVLink-3 NVLink-4 NVLink-5 PCIe-3 PCIe-4 PCIe-5 HDR NDR RoCE-100 RoCE-200 RoCE-400"
ETHERNET = "1GbE 10GbE 25GbE 100GbE WAN"
WANTED = " ".join([NVIDIA, DESKTOP, OTHERS, APPLE, PROCESSORS, LINKS, ETHERNET]).split()

# name, dtype: multiprocessors (or compute units) × boost clock in MHz × dense FLOPs of each per cycle
RATES = {
    ("V100", "float16"): 80 * 1530 * 1024,
    ("V100", "float32"): 80 * 1530 * 128,
    ("T4", "float16"): 40 * 1590 * 1024,
    ("A100-80", "bfloat16"): 108 * 1410 * 2048,
    ("A100-80", "float64"): 108 * 1410 * 128,
    ("A10G", "bfloat16"): 80 * 1710 * 512,
    ("L4", "bfloat16"): 58 * 2040 * 1024,
    ("L40S", "bfloat16"): 142 * 2520 * 1024,
    ("H100", "bfloat16"): 132 * 1830 * 4096,
    ("H100", "float8"): 132 * 1830 * 8192,
    ("H100-PCIe", "bfloat16"): 114 * 1620 * 4096,
    ("H200", "tf32"): 132 * 1830 * 2048,
    ("RTX 3090", "bfloat16"): 82 * 1695 * 512,
    ("RTX A6000", "bfloat16"): 84 * 1800 * 1024,
    ("RTX 4090", "bfloat16"): 128 * 2520 * 512,
    ("RTX 4090", "float8"): 128 * 2520 * 1024,
    ("RTX 5090", "bfloat16"): 170 * 2407 * 512,
    ("RTX 5090", "float4"): 170 * 2407 * 4096,
    ("MI250X", "bfloat16"): 220 * 1700 * 1024,
    ("MI250X-GCD", "float64"): 110 * 1700 * 256,
    ("MI300X", "bfloat16"): 304 * 2100 * 2048,
    ("MI300X", "float64"): 304 * 2100 * 256,
}

# name: width of the memory bus in bits × Gb/s of each
MEMORY = {
    "V100": 4096 * 1.752,
    "T4": 256 * 10,
    "A100-40": 5120 * 2.43,
    "A100-80": 5120 * 3.186,
    "A10G": 384 * 12.5,
    "L4": 192 * 12.5,
    "L40S": 384 * 18,
    "H100": 5120 * 5.24,
    "RTX 3090": 384 * 19.5,
    "RTX A6000": 384 * 16,
    "RTX 4090": 384 * 21,
    "RTX 5090": 512 * 28,
    "MI250X": 8192 * 3.2,
    "MI300X": 8192 * 5.2,
    "M1": 128 * 4.266,
    "M4": 128 * 7.5,
    "Xeon Gold 6248": 6 * 64 * 2.933,
    "EPYC 9654": 12 * 64 * 4.8,
}


@pytest.mark.parametrize("name", WANTED)
def test_it_has_what_people_own_and_rent(name: str) -> None:
    assert catalogue().entry(name).reference


@pytest.mark.parametrize(("name", "dtype"), RATES)
def test_a_dense_rate_is_what_the_chip_can_do_per_cycle(name: str, dtype: str) -> None:
    stored = catalogue().device(name).device.flops_per_second[dtype]
    assert stored == pytest.approx(RATES[name, dtype] * 1e6, rel=0.015)


@pytest.mark.parametrize("name", MEMORY)
def test_a_memory_rate_is_width_times_speed(name: str) -> None:
    stored = catalogue().device(name).memory[0].bytes_per_second
    assert stored == pytest.approx(MEMORY[name] * 1e9 / 8, rel=0.01)


@pytest.mark.parametrize("entry", catalogue().devices, ids=lambda entry: entry.name)
def test_a_device_is_whole_and_says_whether_its_print_is_sparse(entry: ListedDevice) -> None:
    device = entry.device
    assert device.flops_per_second
    assert device.memory[0].bytes_per_second
    assert (entry.printed == "sparse") == bool(entry.printed_sparse)
    for dtype, rate in entry.printed_sparse.items():
        assert device.flops_per_second[dtype] * 2 == pytest.approx(rate, rel=0.01)
    for dtype in device.flops_per_second:
        assert device.origin(f"flops_per_second.{dtype}").reference
    if entry.printed == "none":
        assert device.origin("flops_per_second").source == "extrapolated"
    if device.price_per_hour is not None:
        assert "20" in device.origin("price_per_hour").reference, "a price has a year"
        assert device.origin("price_per_hour").reference != device.reference
    Cluster.parse({"device_types": [device.model_dump()], "nodes": [{"name": "a", "devices": {device.name: 1}}]})


def test_devices_name_links_that_there_are() -> None:
    for entry in catalogue().devices:
        for place in ("fabric", "slot"):
            if name := getattr(entry, place):
                assert catalogue().link(name).place == place


def test_no_two_entries_answer_to_one_name() -> None:
    names = [
        plain(name) for entry in (*catalogue().devices, *catalogue().links) for name in (entry.name, *entry.aliases)
    ]
    assert sorted(names) == sorted(set(names))


def test_lane_arithmetic() -> None:
    for generation, transfers in (("3.0", 8e9), ("4.0", 16e9), ("5.0", 32e9)):
        stored = catalogue().link(f"PCIe {generation} x16").bytes_per_second
        assert stored == pytest.approx(16 * transfers * 128 / 130 / 8, rel=0.001)


def test_half_a_module_is_half_of_everything() -> None:
    module, die = (catalogue().device(name).device for name in ("MI250X", "MI250X-GCD"))
    assert {d: r / 2 for d, r in module.flops_per_second.items()} == dict(die.flops_per_second)
    assert module.memory[0].capacity_bytes == 2 * die.memory[0].capacity_bytes


def test_names_are_met_however_they_are_written() -> None:
    for name in ("a100-80", "NVIDIA A100-SXM4-80GB", "A100"):
        assert catalogue().device(name).name == "A100-80"
    assert catalogue().device("rtx4090").name == catalogue().device("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert catalogue().link("infiniband ndr").name == "NDR"


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(GrainlineError, match=r"has no device 'H1O0'. Did you mean 'H100'\?"):
        catalogue().device("H1O0")
    with pytest.raises(GrainlineError, match=r"has no link 'zzzzz'. grainline hardware catalogue lists them."):
        catalogue().link("zzzzz")


def test_the_verb_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "catalogue"]) == 0
    shown = capsys.readouterr().out
    assert all(entry.name in shown for entry in (*catalogue().devices, *catalogue().links))


def test_the_verb_says_where_each_figure_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "catalogue", "h100"]) == 0
    shown = capsys.readouterr().out
    assert "989.5 TFLOP/s" in shown
    assert "structured sparsity" in shown
    assert "AWS EC2" in shown
    assert main(["hardware", "catalogue", "25gbe"]) == 0
    assert "assumed" in capsys.readouterr().out


def test_the_verb_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "catalogue", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [d["name"] for d in found["devices"]] == [d.name for d in catalogue().devices]
    assert main(["hardware", "catalogue", "EPYC 7763", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["flops_per_second"]["float32"] == 64 * 2.45e9 * 32
    assert one["origins"]["flops_per_second"]["source"] == "extrapolated"


def test_the_verb_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "catalogue", "A100-8O"]) == 2
    assert "no device or link 'A100-8O'. Did you mean 'A100-80'?" in capsys.readouterr().err
