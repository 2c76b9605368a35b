"""Clusters: what holds and what is refused, by key and value; copies of nodes; where figures come from."""

from pathlib import Path
from typing import Any

import pytest

from grainline.documents import Cluster, DocumentError

A100: dict[str, Any] = {"name": "A100", "kind": "gpu", "flops_per_second": {"bfloat16": 312e12}, "price_per_hour": 2}
CPU: dict[str, Any] = {"name": "Xeon", "kind": "cpu"}
ETHERNET: dict[str, Any] = {"type": "Ethernet", "bytes_per_second": 3.125e9}
INFINIBAND: dict[str, Any] = {"type": "InfiniBand", "count": 4, "bytes_per_second": 25e9}


def inner(node: str = "a", **more: Any) -> dict[str, Any]:
    return {"between": [node], "latency_seconds": 1e-6, "bytes_per_second": 300e9, **more}


def outer(a: str = "a", b: str = "leaf", **more: Any) -> dict[str, Any]:
    return {"between": [a, b], "latency_seconds": 1e-6, "bytes_per_second": 1e9, **more}


RIGHT: dict[str, Any] = {
    "device_types": [A100, CPU],
    "nodes": [
        {"name": "a", "count": 2, "devices": {"Xeon": 1, "A100": 4}, "nics": [ETHERNET, INFINIBAND]},
        {"name": "b", "devices": {"A100": 1}},
    ],
    "switches": [{"name": "leaf", "latency_seconds": 3e-7}],
    "links": [inner(joins=["A100"], groups_of=2), outer(nic="Ethernet"), outer("b")],
}


def test_what_is_right_holds_and_says_who_is_there() -> None:
    cluster = Cluster.parse(RIGHT)
    assert [name for name, _ in cluster.every_node()] == ["a-0", "a-1", "b"]
    assert [(a, b) for _, a, b in cluster.joints()] == [("a-0", "leaf"), ("a-1", "leaf"), ("b", "leaf")]
    assert cluster.inside(cluster.nodes[0], "a-1") == (cluster.links[0],)
    assert cluster.inside(cluster.nodes[1], "b") == ()


def test_a_node_linked_with_itself_is_all_its_copies_linked() -> None:
    mesh = Cluster.parse(
        {
            "device_types": [A100],
            "nodes": [{"name": "n", "count": 3, "devices": {"A100": 1}}],
            "links": [outer("n", "n")],
        }
    )
    assert [(a, b) for _, a, b in mesh.joints()] == [("n-0", "n-1"), ("n-0", "n-2"), ("n-1", "n-2")]


def test_one_copy_can_be_named() -> None:
    cluster = Cluster.parse(RIGHT | {"links": [*RIGHT["links"], outer("a-1", "b", nic="InfiniBand"), inner("a-1")]})
    assert [(a, b) for _, a, b in cluster.joints()][-1] == ("a-1", "b")
    assert [len(cluster.inside(cluster.nodes[0], name)) for name in ("a-0", "a-1")] == [1, 2]


def matrix(*names: str, **more: Any) -> dict[str, Any]:
    square = [[1.0] * len(names)] * len(names)
    return {"measured": {"names": list(names), "latency_seconds": square, "bytes_per_second": square, **more}}


def links(*extra: dict[str, Any]) -> dict[str, Any]:
    return {"links": [*RIGHT["links"], *extra]}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"device_types": [A100 | {"flops_per_second": {"bf16": 1}}]},
        "device_types[0].flops_per_second: there is no dtype 'bf16'. ",
    ),
    (
        {"device_types": [A100, CPU | {"flops_per_second": {"flaot32": 1}}]},
        "device_types[1].flops_per_second: there is no dtype 'flaot32'. Did you mean 'float32'?",
    ),
    (
        {"device_types": [A100 | {"origins": {"prize_per_hour": {"source": "assumed"}}}, CPU]},
        "device_types[0].origins: there is no figure 'prize_per_hour'. Did you mean 'price_per_hour'?",
    ),
    (
        {"nodes": [{"name": "a", "devices": {"A10": 4}}]},
        "nodes[0].devices: no device type is named 'A10'. Did you mean 'A100'?",
    ),
    (
        {"nodes": [*RIGHT["nodes"], {"name": "a-1", "devices": {"A100": 1}}]},
        "nodes and switches: the name 'a-1' is given to 2",
    ),
    ({"switches": [{"name": "b"}]}, "nodes and switches: the name 'b' is given to 2 of them"),
    (
        {"nodes": [{"name": "a", "devices": {"A100": 1}, "nics": [ETHERNET, ETHERNET]}]},
        "nodes[0].nics: the name 'Ethernet' is given to 2 of them",
    ),
    (links(outer("b", "laef")), "links[3].between: no node or switch is named 'laef'. Did you mean 'leaf'?"),
    (links(inner("leaf")), "links[3].between: ['leaf'] is a switch; name what it is joined with as well"),
    (links(inner("zz")), "links[3].between: no node is named 'zz'. Known here: a, b."),
    (
        links({"between": ["a"], "latency_seconds": 0}),
        "links[3].bytes_per_second: is required for a link inside a node",
    ),
    (links(inner(joins=["A10"])), "links[3].joins: node 'a' has no device 'A10'. Did you mean 'A100'?"),
    (
        links(inner(joins=["A100"], groups_of=3)),
        "links[3].groups_of: 3 doesn't divide the 4 devices that the link joins",
    ),
    (links(inner(nic="Ethernet")), "links[3].nic: 'Ethernet' goes with a link between two nodes or switches"),
    (links(inner(sharing="ports")), "links[3].sharing: must be 'port', 'pair' or 'all', not 'ports'."),
    (links(outer("b", "b")), "links[3].between: 'b' is joined with itself; name it once for a link inside it"),
    (links(outer("leaf", "leaf")), "links[3].between: 'leaf' is joined with itself"),
    (links(outer("b", sharing="all")), "links[3].sharing: goes with a link inside one node"),
    (links(outer("b", groups_of=2)), "links[3].groups_of: goes with a link inside one node"),
    (links(outer("b", joins=["A100"])), "links[3].joins: goes with a link inside one node"),
    (links(outer()), "links[3].nic: say which of ['Ethernet', 'InfiniBand'] of node 'a' the link is plugged into"),
    (links(outer(nic="Ehternet")), "links[3].nic: neither end has NICs of type 'Ehternet'. Did you mean 'Ethernet'?"),
    (
        links({"between": ["b", "leaf"], "latency_seconds": 0}),
        "links[3].bytes_per_second: is required where neither end has NICs",
    ),
    ({"links": RIGHT["links"][:2]}, "links: the devices of node 'a-0' can't reach those of 'b'."),
    ({"links": RIGHT["links"][::2]}, "links: the devices of node 'a-0' can't reach those of 'a-1', 'b'."),
    (matrix("a", "b"), "measured.names: no node or device is named 'a'."),
    (matrix("b:1"), "measured.names: no node or device is named 'b:1'."),
    (matrix("a-0", "b:0"), "measured.names: must be nodes alone or devices alone, not both: ['a-0', 'b:0']."),
    (matrix("b", "b"), "measured.names: the name 'b' is given to 2 of them"),
    (
        matrix("a-0", "b", latency_seconds=[[0.0, 0.0]]),
        "measured.latency_seconds: must hold 2 rows of 2, as there are names",
    ),
    (
        matrix("b", bytes_per_second=[[-1]]),
        "measured.bytes_per_second[0][0]: must be greater than or equal to 0, not -1.",
    ),
]


@pytest.mark.parametrize(("changes", "words"), MISTAKES, ids=[words[:50] for _, words in MISTAKES])
def test_a_mistake_is_told_by_key_and_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        Cluster.parse(RIGHT | changes, where="mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {words}")
    assert str(caught.value)[-2:] not in ("..", "?.")


def chain(forwards: bool) -> dict[str, Any]:
    nodes = [{"name": n, "devices": {"A100": 1}, "forwards": forwards} for n in "abc"]
    return {"device_types": [A100], "nodes": nodes, "links": [outer("a", "b"), outer("b", "c")]}


def test_a_node_on_the_way_must_forward() -> None:
    with pytest.raises(DocumentError, match=r"'a' can't reach those of 'c'.*forwards = true"):
        Cluster.parse(chain(forwards=False))
    Cluster.parse(chain(forwards=True))


def test_many_that_are_apart_are_counted() -> None:
    nodes = [{"name": "a", "devices": {"A100": 1}}, {"name": "n", "count": 9, "devices": {"A100": 1}}]
    with pytest.raises(DocumentError, match=r"of 'n-0', 'n-1', 'n-2', 'n-3', 'n-4' and 4 more\. "):
        Cluster.parse({"device_types": [A100], "nodes": nodes, "links": [outer("n", "n")]})


def test_measured_pairs_join_nodes() -> None:
    apart = {"device_types": [A100], "nodes": [{"name": n, "devices": {"A100": 1}} for n in "ab"]}
    Cluster.parse(apart | matrix("a", "b"))
    with pytest.raises(DocumentError, match="can't reach"):
        Cluster.parse(apart | matrix("a", "b", bytes_per_second=[[0, 1], [0, 0]]))  # there, and not back


def test_each_figure_knows_where_it_comes_from() -> None:
    origins = {
        "price_per_hour": {"source": "assumed", "reference": "a guess"},
        "flops_per_second.bfloat16": {"source": "measured"},
    }
    rates = {"bfloat16": 1e12, "float32": 1e12}
    device = Cluster.parse(
        RIGHT | {"device_types": [A100 | {"flops_per_second": rates, "reference": "sheet", "origins": origins}, CPU]}
    ).device_type("A100")
    assert (device.origin("price_per_hour").source, device.origin("price_per_hour").reference) == ("assumed", "a guess")
    assert device.origin("flops_per_second.bfloat16").source == "measured"
    assert (device.origin("flops_per_second.float32").source, device.origin("memory").reference) == (
        "data sheet",
        "sheet",
    )


VERSION_1 = """
schema_version = 1

[[device_types]]
name = "A100"
kind = "gpu"
source = "measured"
reference = "grainline hardware measure"
[device_types.flops_per_second]
bfloat16 = 2.5e14
[[device_types.memory]]
name = "device memory"
capacity_bytes = 85899345920

[[nodes]]
name = "n0"
cores = 32
host_memory_bytes = 274877906944
site = ""
[nodes.devices]
A100 = 4

[[nodes]]
name = "n1"
[nodes.devices]
A100 = 4

[[links]]
between = ["n0"]
latency_seconds = 1e-6
bytes_per_second = 3e11
name = "NVLink"
source = "data sheet"

[[links]]
between = ["n0", "n1"]
latency_seconds = 5e-6
bytes_per_second = 3.125e9
"""


def test_a_file_of_version_1_goes_on_working(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(VERSION_1)
    cluster = Cluster.load(tmp_path / "old.toml")
    assert [dict(node.devices) for node in cluster.nodes] == [{"A100": 4}, {"A100": 4}]
    assert (cluster.links[0].sharing, cluster.links[0].host, cluster.links[1].duplex) == ("port", True, "full")


EXAMPLES = Path(__file__).parents[2] / "examples" / "clusters"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_hold(example: Path) -> None:
    assert Cluster.load(example).nodes


def test_there_are_examples() -> None:
    assert {"laptop", "mixed", "two_sites"} <= {path.stem for path in EXAMPLES.glob("*.toml")}


POOL = {"name": "pool", "capacity_bytes": 1000, "bytes_per_second": 10.0}


def test_a_shared_memory_is_read_and_written_again(tmp_path: Path) -> None:
    cluster = Cluster.load(Path(__file__).parents[2] / "examples" / "clusters" / "fenghuang.toml")
    (pool,) = cluster.shared_memory
    assert pool.latency_seconds["accumulate"] == 90e-9
    cluster.save(tmp_path / "c.toml")
    assert Cluster.load(tmp_path / "c.toml") == cluster
    assert Cluster.load(Path(__file__).parents[2] / "examples" / "clusters" / "mixed.toml").shared_memory == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bytes_per_second": None}, r"shared_memory\[0\].bytes_per_second: is required"),
        ({"bytes_per_second": 0}, r"shared_memory\[0\].bytes_per_second: must be greater than 0, not 0"),
        ({"nodes": ["rck"]}, r"shared_memory\[0\].nodes: no node is named 'rck'. Did you mean 'rack'\?"),
        ({"operations": ["read"]}, r"shared_memory\[0\].operations: a memory at least has read and write"),
        ({"latency_seconds": {"notify": 1e-9}}, r"shared_memory\[0\].latency_seconds.notify: isn't among"),
        ({"operations": ["read", "write", "add"]}, r"shared_memory\[0\].operations\[2\]: must be 'read'"),
    ],
)
def test_a_shared_memory_that_doesnt_hold(changed: dict[str, object], words: str) -> None:
    pool = {key: value for key, value in {**POOL, **changed}.items() if value is not None}
    tables = {
        "device_types": [{"name": "x", "kind": "gpu"}],
        "nodes": [{"name": "rack", "devices": {"x": 2}}],
        "shared_memory": [pool],
    }
    with pytest.raises(DocumentError, match=words):
        Cluster.parse(tables)
