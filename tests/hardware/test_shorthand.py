"""Clusters in a line."""

import dataclasses

import pytest

import grainline as gl
from grainline import documents
from grainline.documents import GrainlineError
from grainline.hardware import look
from grainline.hardware.catalogue import catalogue
from grainline.hardware.measured import Measured
from grainline.hardware.shorthand import cluster_of
from grainline.hardware.topology import topology


def parts(text: str) -> list[tuple[int, dict[str, int], list[tuple[str, int]]]]:
    """(how many nodes, their devices, their NICs) of each term."""
    return [(n.count, dict(n.devices), [(c.type, c.count) for c in n.nics]) for n in cluster_of(text).nodes]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4xA100-80 + 4xA10G@25GbE", [(1, {"A100-80": 4}, [("25GbE", 1)]), (1, {"A10G": 4}, [("25GbE", 1)])]),
        ("4xA100-80+4xA10G", [(1, {"A100-80": 4}, [("25GbE", 1)]), (1, {"A10G": 4}, [("25GbE", 1)])]),
        ("2x(8xH100)@NDR", [(2, {"H100": 8}, [("NDR", 8)])]),
        ("2x(8xH100)@4xNDR", [(2, {"H100": 8}, [("NDR", 4)])]),
        ("3 x ( Xeon 8480 + 2 x l40s ) @ 100gbe", [(3, {"Xeon Platinum 8480": 1, "L40S": 2}, [("100GbE", 1)])]),
        ("2x(Xeon 8480 + 2xL40S)@RoCE-200", [(2, {"Xeon Platinum 8480": 1, "L40S": 2}, [("RoCE-200", 2)])]),
        ("(T4 + T4 + L4)", [(1, {"T4": 2, "L4": 1}, [])]),
        ("8xMI300X", [(1, {"MI300X": 8}, [])]),
        ("M1 Max", [(1, {"M1 Max": 1}, [])]),
        (
            "H100@NDR + T4@1GbE + L4",
            [(1, {n: 1}, [(w, 1)]) for n, w in (("H100", "NDR"), ("T4", "1GbE"), ("L4", "1GbE"))],
        ),
    ],
)
def test_a_line_as_nodes(text: str, wanted: list[tuple[int, dict[str, int], list[tuple[str, int]]]]) -> None:
    assert parts(text) == wanted


def test_devices_of_a_node_are_joined_as_the_catalogue_says() -> None:
    cluster = cluster_of("4xA100-80 + 4xA10G@25GbE")
    assert [(link.between, link.type, link.joins, link.host) for link in cluster.links[:3]] == [
        (("a",), "NVLink 3", ("A100-80",), False),
        (("a",), "PCIe 4.0 x16", ("A100-80",), True),
        (("b",), "PCIe 4.0 x16", ("A10G",), True),
    ]
    t = topology(cluster)
    assert t.bytes_per_second(0, 1) == catalogue().link("NVLink 3").bytes_per_second
    assert t.bytes_per_second(4, 5) == catalogue().link("PCIe 4").bytes_per_second
    assert t.bytes_per_second(0, 4) == t.bytes_per_second(4, 0) == 25e9 / 8
    crossing = set(t.route(0, 4)) & set(t.route(1, 5))
    assert {t.wires[i].name for i in crossing} >= {"a 25GbE out", "b 25GbE in"}, "four cards share one NIC"


def test_with_a_nic_for_each_device_their_messages_share_none() -> None:
    t = topology(cluster_of("2x(8xH100)@NDR"))
    ports = [
        {i for i in t.route(d, 8 + d) if "NDR" in t.wires[i].name and "switch" not in t.wires[i].name} for d in range(8)
    ]
    assert sum(len(p) for p in ports) == len(set.union(*ports)) == 16
    assert t.latency_seconds(0, 8) == pytest.approx(2e-6 + 5e-6)


def test_networks_meet_at_the_narrower_sides_rate() -> None:
    t = topology(cluster_of("2x(8xH100)@NDR + 3x(A10G)@25GbE"))
    assert t.bytes_per_second(0, 8) == 50e9
    assert t.bytes_per_second(0, 16) == 25e9 / 8
    (meeting,) = (w for w in t.wires if w.name == "NDR switch → 25GbE switch")
    assert meeting.bytes_per_second == 3 * 25e9 / 8


def test_what_nobody_said_is_assumed() -> None:
    said, unsaid = cluster_of("A10G + A10G@25GbE"), cluster_of("A10G + A10G")
    assert {link.source for link in said.links if len(link.between) == 2} == {"data sheet"}
    assert {nic.source for node in unsaid.nodes for nic in node.nics} == {"assumed"}


@pytest.mark.parametrize("entry", catalogue().devices, ids=lambda entry: entry.name)
def test_every_device_can_be_named(entry: documents.cluster.DeviceType) -> None:
    t = topology(cluster_of(f"2x(2x{entry.name})@10GbE"))
    assert all(t.route(a, b) for a in range(4) for b in range(4) if a != b)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4xA100-80 + 4xA10@25GbE", "in '4xA10@25GbE': the catalogue has no device 'A10'. Did you mean 'A10G'?"),
        ("2x(8xH100)@NDRR", "in '2x(8xH100)@NDRR': the catalogue has no link 'NDRR'. Did you mean 'NDR'?"),
        ("2xH100@NVLink 4", "in '2xH100@NVLink 4': 'NVLink 4' joins devices inside a node"),
        ("2x(8xH100", "the brackets don't match"),
        (")(", "the brackets don't match"),
        ("2x((H100))", "the brackets don't match"),
        ("two(H100)", "in 'two(H100)': brackets hold one node's devices"),
        ("2x(H100)3", "in '2x(H100)3': brackets hold one node's devices"),
        ("2x(H100@NDR)", "in '2x(H100@NDR)': brackets hold one node's devices"),
        ("", "there is nothing to one side of a +"),
        ("H100 + ", "there is nothing to one side of a +"),
        ("4x", "in '4x': a name is missing"),
        ("H100@", "in 'H100@': a name is missing"),
        ("(H100 + )", "in '(H100 + )': a name is missing"),
        ("0xH100", "in '0xH100': a count must lie between 1 and 65536, not 0"),
        ("100000x(H100)", "a count must lie between 1 and 65536, not 100000"),
        ("H100@0xNDR", "a count must lie between 1 and 65536, not 0"),
    ],
)
def test_the_piece_that_is_not_right_is_named(text: str, words: str) -> None:
    with pytest.raises(GrainlineError) as caught:
        cluster_of(text)
    assert str(caught.value).startswith("cluster")
    assert words in str(caught.value)


def test_the_front_of_the_library_has_it() -> None:
    cluster = gl.Cluster.of("4xA100-80 + 4xA10G@25GbE")
    assert isinstance(cluster, documents.Cluster)
    assert isinstance(cluster, gl.Cluster)
    assert cluster.tables() == cluster_of("4xA100-80 + 4xA10G@25GbE").tables()


def test_this_machine_as_the_public_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(look(measure=False), accelerators=(), flops_per_second={"float32": 1e11})
    monkeypatch.setattr("grainline.hardware.measure.measure", lambda quick: Measured(machine))
    cluster = gl.Cluster.measure("mine", quick=True)
    assert isinstance(cluster, gl.Cluster)
    assert (cluster.nodes[0].name, cluster.device_types[0].flops_per_second) == ("mine", {"float32": 1e11})
