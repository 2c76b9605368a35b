"""Routes: against brute force on small graphs; and each piece of a cluster where it should be on the way."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import Cluster, GrainlineError
from grainline.hardware.routing import FREE, Edge, Routing
from grainline.hardware.shorthand import cluster_of
from grainline.hardware.topology import Device, Topology, Wire, topology

EXAMPLES = Path(__file__).parents[2] / "examples" / "clusters"

GPU: dict[str, Any] = {"name": "G", "kind": "gpu"}
RAM = {"name": "RAM", "capacity_bytes": 1, "bytes_per_second": 40e9}
CPU: dict[str, Any] = {"name": "C", "kind": "cpu", "memory": [RAM]}


def names(t: Topology, a: int, b: int) -> list[str]:
    return [t.wires[i].name for i in t.route(a, b)]


def parse(nodes: list[dict[str, Any]], **more: Any) -> Topology:
    return topology(Cluster.parse({"device_types": [GPU, CPU], "nodes": nodes, **more}))


def link(*between: str, rate: float = 1e9, latency: float = 1e-6, **more: Any) -> dict[str, Any]:
    return {"between": list(between), "latency_seconds": latency, "bytes_per_second": rate, **more}


# Routing against brute force


@st.composite
def graphs(draw: st.DrawFn) -> Routing:
    """Up to 3 devices, 4 further vertices, and few distinct rates and latencies, so that there are ties."""
    devices, others = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    wires = draw(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([0.0, 1.0, 2.0])), max_size=8))
    vertex = st.integers(0, devices + others - 1)
    edges = draw(st.lists(st.tuples(vertex, vertex, st.integers(FREE, len(wires) - 1)), max_size=14))
    return Routing(
        devices,
        tuple(Edge(*e) for e in edges if e[0] != e[1]),
        tuple(w[0] for w in wires),
        tuple(w[1] for w in wires),
    )


def ways(graph: Routing, at: int, target: int, seen: tuple[int, ...] = ()) -> Iterator[tuple[Edge, ...]]:
    """Every way without a loop that passes through no device."""
    for edge in graph.edges:
        if edge.start == at and edge.end not in (*seen, at):
            if edge.end == target:
                yield (edge,)
            elif edge.end >= graph.devices:
                yield from ((edge, *rest) for rest in ways(graph, edge.end, target, (*seen, at)))


def merit(graph: Routing, way: tuple[Edge, ...]) -> tuple[float, float, int]:
    """Less is better: width first, then latency, then steps."""
    wires = [e.wire for e in way if e.wire != FREE]
    width = min((graph.bytes_per_second[w] for w in wires), default=float("inf"))
    return -width, sum(graph.latency_seconds[w] for w in wires), len(way)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_a_route_is_the_widest_way_and_of_those_the_shortest(graph: Routing) -> None:
    for a in range(graph.devices):
        for b in range(graph.devices):
            if a == b:
                continue
            found = {merit(graph, way): way for way in ways(graph, a, b)}
            width, route = graph.way(a, b)
            if not found:
                assert (route, width) == ((), 0)
                continue
            best = min(found)
            assert width == -best[0]
            same = {tuple(e.wire for e in w if e.wire != FREE) for w in ways(graph, a, b) if merit(graph, w) == best}
            assert route in same
            assert dataclasses.replace(graph).way(a, b) == (width, route), "another search finds the same"


# Whole clusters

rates = st.sampled_from([1e9, 2e9, 5e9])


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Nodes of any devices, links inside them of every kind, NICs or none, and switches in a chain that joins all."""
    nodes, links = [], []
    switches = [
        {"name": f"s{i}", "latency_seconds": 1e-7, **draw(st.sampled_from([{}, {"bytes_per_second": 3e9}]))}
        for i in range(draw(st.integers(1, 3)))
    ]
    links += [link(a["name"], b["name"], rate=draw(rates)) for a, b in itertools.pairwise(switches)]
    for i in range(draw(st.integers(1, 3))):
        node = {
            "name": f"n{i}",
            "count": draw(st.integers(1, 2)),
            "forwards": draw(st.booleans()),
            "devices": draw(st.sampled_from([{"G": 2}, {"C": 1, "G": 4}])),
        }
        if draw(st.booleans()):
            node["nics"] = [{"type": "E", "count": draw(st.integers(1, 5)), "bytes_per_second": draw(rates)}]
        nodes.append(node)
        for sharing in draw(st.lists(st.sampled_from(["port", "pair", "all"]), unique=True)):
            more = {"sharing": sharing, "host": draw(st.booleans()), "joins": draw(st.sampled_from([[], ["G"]]))}
            groups = {"groups_of": 2} if more["joins"] and draw(st.booleans()) else {}
            links.append(
                link(node["name"], rate=draw(rates), duplex=draw(st.sampled_from(["full", "half"])), **more, **groups)
            )
        links.append(link(node["name"], draw(st.sampled_from(switches))["name"], rate=draw(rates)))
    return Cluster.parse({"device_types": [GPU, CPU], "nodes": nodes, "switches": switches, "links": links})


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_every_pair_has_a_route_whose_wires_join_up(cluster: Cluster) -> None:
    t = topology(cluster)
    unzoned = dataclasses.replace(t, zones=())
    assert [d.index for d in t.devices] == list(range(len(t.devices)))
    assert len({wire.name for wire in t.wires}) == len(t.wires), "each wire has a name of its own"
    for a in range(len(t.devices)):
        for b in range(len(t.devices)):
            route = t.route(a, b)
            assert (route == ()) == (a == b)
            assert len(set(route)) == len(route), "no wire is crossed twice"
            assert unzoned.route(a, b) == route, "keeping out of other nodes loses nothing"
            assert reached(t, a, route) >= {b}


def reached(t: Topology, start: int, route: tuple[int, ...]) -> set[int]:
    """The vertices where one can be, having crossed these wires in order from `start`."""
    at = free(t, {start})
    for wire in route:
        at = free(t, {e.end for e in t.edges if e.wire == wire and e.start in at})
    return at


def free(t: Topology, at: set[int]) -> set[int]:
    while more := {e.end for e in t.edges if e.wire == FREE and e.start in at} - at:
        at |= more
    return at


# Pieces


def test_devices_are_told_apart() -> None:
    t = parse([{"name": "a", "count": 2, "devices": {"C": 1, "G": 2}}], links=[link("a", "a")])
    assert [d.node for d in t.devices] == ["a-0"] * 3 + ["a-1"] * 3
    assert [d.type.name for d in t.devices] == ["C", "G", "G"] * 2
    assert isinstance(t.devices[0], Device)
    assert isinstance(t.wires[0], Wire)


def test_ports_carry_half_the_latency_each() -> None:
    t = parse(
        [{"name": "a", "devices": {"G": 3}}], links=[link("a", rate=9e9, latency=2e-6, type="NVLink", host=False)]
    )
    assert names(t, 0, 2) == ["a:0 → NVLink", "NVLink → a:2"]
    assert (t.bytes_per_second(0, 2), t.latency_seconds(0, 2)) == (9e9, 2e-6)
    assert set(t.route(0, 1)) & set(t.route(0, 2)), "both leave by the port of device 0"
    assert not set(t.route(0, 1)) & set(t.route(1, 0)), "full duplex"


def test_a_half_duplex_port_is_one_wire() -> None:
    t = parse([{"name": "a", "devices": {"G": 2}}], links=[link("a", duplex="half")])
    assert sorted(t.route(0, 1)) == sorted(t.route(1, 0))


def test_pairs_have_their_own_lines() -> None:
    t = parse([{"name": "a", "devices": {"G": 3}}], links=[link("a", rate=50e9, sharing="pair")])
    assert names(t, 0, 1) == ["a:0 → a:1"]
    assert not set(t.route(0, 1)) & set(t.route(0, 2))


def test_a_bus_is_crossed_once_by_all() -> None:
    t = parse([{"name": "a", "devices": {"G": 3}}], links=[link("a", sharing="all", type="PCIe switch")])
    routes = {t.route(a, b) for a in range(3) for b in range(3) if a != b}
    assert len(routes) == 1
    assert len(next(iter(routes))) == 1


def test_bridges_join_pairs_and_the_rest_goes_through_the_host() -> None:
    inside = [link("a", rate=100e9, groups_of=2, host=False, type="NVLink"), link("a", rate=20e9, type="PCIe")]
    t = parse([{"name": "a", "devices": {"G": 4}}], links=inside)
    assert t.bytes_per_second(0, 1) == t.bytes_per_second(2, 3) == 100e9
    assert names(t, 1, 2) == ["a:1 → PCIe", "PCIe → a:2"]


def test_without_links_devices_meet_at_the_host_at_assumed_rates() -> None:
    t = parse([{"name": "a", "devices": {"C": 1, "G": 2}}])
    assert names(t, 1, 2) == ["a:1 → host", "host → a:2"]
    assert t.bytes_per_second(1, 2) == t.bytes_per_second(0, 1) == 12e9
    assert t.wires[t.route(0, 1)[0]].bytes_per_second == 40e9, "the CPU's memory"


def test_each_device_takes_its_own_nic() -> None:
    nics = [{"type": "IB", "count": 2, "bytes_per_second": 5e9, "latency_seconds": 1e-6}]
    t = parse(
        [{"name": "a", "count": 2, "devices": {"C": 1, "G": 4}, "nics": nics}],
        switches=[{"name": "leaf", "latency_seconds": 3e-7}],
        links=[{"between": ["a", "leaf"], "latency_seconds": 1e-7}],
    )
    there = names(t, 1, 8)  # the first GPU of one node to the third of the other
    assert there == ["a-0:1 → host", "a-0 IB 0 out", "a-0 → leaf", "leaf → a-1", "a-1 IB 1 in", "host → a-1:3"]
    assert names(t, 4, 6)[1:-1] == ["a-0 IB 1 out", "a-0 → leaf", "leaf → a-1", "a-1 IB 0 in"]
    trunk = t.wires[t.route(1, 8)[2]]
    assert trunk.bytes_per_second == 10e9, "what both NICs carry"
    assert t.latency_seconds(1, 8) == pytest.approx(2 * 5e-6 + 2 * 1e-6 + 2 * 1e-7 + 3e-7)


def test_more_nics_than_devices_serve_together() -> None:
    nics = [{"type": "IB", "count": 4, "bytes_per_second": 1e9}]
    nodes = [{"name": n, "devices": {"G": 1}, "nics": nics} for n in "ab"]
    assert parse(nodes, links=[link("a", "b", rate=100e9)]).bytes_per_second(0, 1) == 4e9


def test_a_link_takes_the_nics_that_it_names() -> None:
    nics = [{"type": "IB", "bytes_per_second": 5e9}, {"type": "E", "bytes_per_second": 1e9}]
    nodes = [{"name": n, "devices": {"G": 1}, "nics": nics} for n in "ab"]
    t = parse(nodes, links=[{"between": ["a", "b"], "latency_seconds": 0, "nic": "E"}])
    assert names(t, 0, 1)[1] == "a E out"
    assert t.bytes_per_second(0, 1) == 1e9


def test_what_passes_a_blocking_switch_shares_it() -> None:
    nodes = [{"name": n, "devices": {"G": 1}} for n in "abcd"]
    links = [link(n, "s") for n in "abcd"]
    shared = parse(nodes, switches=[{"name": "s", "bytes_per_second": 2e9, "latency_seconds": 4e-7}], links=links)
    assert set(shared.route(0, 1)) & set(shared.route(2, 3)) == {i for i, w in enumerate(shared.wires) if w.name == "s"}
    free = parse(nodes, switches=[{"name": "s", "latency_seconds": 4e-7}], links=links)
    assert not set(free.route(0, 1)) & set(free.route(2, 3))
    assert (
        free.latency_seconds(0, 1) == pytest.approx(shared.latency_seconds(0, 1)) == pytest.approx(2e-6 + 4e-7 + 1e-5)
    )


def test_no_way_leads_through_a_node_that_does_not_forward() -> None:
    nodes = [{"name": n, "devices": {"G": 1}} for n in "abc"]
    wide = [link("a", "b", rate=9e9), link("b", "c", rate=9e9), link("a", "c", rate=1e9)]
    assert "a → c" in names(parse(nodes, links=wide), 0, 2)
    nodes[1]["forwards"] = True
    assert names(parse(nodes, links=wide), 0, 2)[1:-1] == ["a → b", "b → c"]


def test_parallel_links_have_names_of_their_own() -> None:
    t = parse([{"name": n, "devices": {"G": 1}} for n in "ab"], links=[link("a", "b"), link("a", "b", rate=2e9)])
    assert [w.name for w in t.wires if "a → b" in w.name] == ["a → b", "a → b #2"]
    assert t.bytes_per_second(0, 1) == 2e9


def measured(*over: str, latency: float, rate: float) -> dict[str, Any]:
    n = len(over)
    return {"names": list(over), "latency_seconds": [[latency] * n] * n, "bytes_per_second": [[rate] * n] * n}


def test_what_was_measured_between_linked_nodes_holds_for_each_pair() -> None:
    nodes = [{"name": n, "devices": {"G": 2}} for n in "ab"]
    t = parse(nodes, links=[link("a", "b")], measured=measured("a", "b", latency=1e-4, rate=7e8))
    for a, b in ((0, 2), (1, 3), (3, 0), (0, 1)):
        assert t.bytes_per_second(a, b) == 7e8
        assert t.latency_seconds(a, b) == pytest.approx(1e-4)
    assert "a → b" in names(t, 0, 2), "the link is still shared with others"


def test_what_was_measured_joins_nodes_that_no_link_joins() -> None:
    t = parse([{"name": n, "devices": {"G": 1}} for n in "ab"], measured=measured("a", "b", latency=1e-4, rate=7e8))
    assert names(t, 0, 1) == ["a:0 → host", "a → b (measured)", "host → b:0"]


def test_single_devices_can_be_measured() -> None:
    t = parse([{"name": "a", "devices": {"G": 3}}], measured=measured("a:0", "a:2", latency=1e-4, rate=7e8))
    assert (t.bytes_per_second(0, 2), t.bytes_per_second(2, 0), t.bytes_per_second(0, 1)) == (7e8, 7e8, 12e9)


def test_the_way_to_the_host() -> None:
    inside = [
        link("a", rate=100e9, host=False, type="NVLink", joins=["G"]),
        link("a", rate=20e9, type="PCIe", joins=["G"]),
    ]
    t = parse([{"name": "a", "devices": {"C": 1, "G": 2}}], links=inside)
    (there, back), (own, _) = t.host_routes(2), t.host_routes(0)
    assert [t.wires[i].name for i in (*there, *back)] == ["a:2 → PCIe", "PCIe → a:2"]
    assert [t.wires[i].name for i in own] == ["a:0 → host"]
    bus = parse([{"name": "a", "devices": {"G": 2}}], links=[link("a", sharing="all")])
    assert bus.host_routes(0) == ((0,), (0,)) == bus.host_routes(1)


def test_two_sites_meet_in_one_wide_area_link() -> None:
    t = topology(Cluster.load(EXAMPLES / "two_sites.toml"))
    assert [d.node for d in t.devices] == ["north-0"] * 8 + ["north-1"] * 8 + ["south-0"] * 2 + ["south-1"] * 2
    assert "north-0 HDR 3 out" in names(t, 3, 8)
    assert t.bytes_per_second(3, 8) == 25e9
    crossing = set(t.route(0, 16)) & set(t.route(15, 19))
    assert {t.wires[i].name for i in crossing} == {"north Ethernet", "north Ethernet → south Ethernet (WAN)"}
    assert t.bytes_per_second(0, 16) == 0.125e9
    assert t.latency_seconds(0, 16) == pytest.approx(20e-3, rel=0.01)
    assert "north Ethernet → south Ethernet (WAN)" not in names(t, 17, 19)


def test_the_mixed_example_is_what_the_shorthand_draws() -> None:
    example, line = topology(Cluster.load(EXAMPLES / "mixed.toml")), topology(cluster_of("4xA100-80 + 4xA10G@25GbE"))
    for a in range(8):
        for b in range(8):
            assert example.bytes_per_second(a, b) == line.bytes_per_second(a, b)
            assert example.latency_seconds(a, b) == pytest.approx(line.latency_seconds(a, b))


def test_where_there_is_no_way_the_devices_are_named() -> None:
    t = parse([{"name": "a", "devices": {"G": 2}}])
    with pytest.raises(GrainlineError, match=r"no way from device 0 \(in 'a'\) to device 1 \(in 'a'\)"):
        Topology(t.devices, t.wires).route(0, 1)


def test_a_large_cluster_is_drawn() -> None:
    nics = [{"type": "IB", "count": 8, "bytes_per_second": 50e9}]
    t = parse(
        [{"name": "n", "count": 128, "devices": {"G": 8}, "nics": nics}],
        switches=[{"name": "core"}],
        links=[
            link("n", rate=450e9, host=False),
            link("n", rate=64e9),
            {"between": ["n", "core"], "latency_seconds": 0},
        ],
    )
    assert len(t.devices) == 1024
    assert len(t.route(0, 1)) == 2
    assert len(t.route(3, 1023)) == 6
