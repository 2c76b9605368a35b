"""Clusters in a line: ``4xA100-80 + 4xA10G@25GbE``, ``2x(8xH100)@NDR``, with the catalogue's figures.

    cluster  = term { "+" term }
    term     = node [ "@" [ count "x" ] network ]
    node     = devices | [ count "x" ] "(" devices { "+" devices } ")"
    devices  = [ count "x" ] device

A term is a node, or as many as the count before its brackets. Names are the catalogue's.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import Link, Node, Switch
from grainline.hardware.catalogue import ListedDevice, ListedLink, catalogue

USUAL_NETWORK = "25GbE"
"""Between nodes, where no term says. It is only assumed."""
MOST = 65536  # of anything; as in a node's count
COUNT = re.compile(r"\s*(\d+)\s*[x×*]\s*", re.IGNORECASE)
EXAMPLE = "Write it as in 4xA100-80 + 4xA10G@25GbE or 2x(8xH100)@NDR."


@dataclass(frozen=True)
class Term:
    """Nodes alike: how many, their devices in order, and the NICs of each where the term says so."""

    text: str
    nodes: int
    devices: dict[str, int]  # by the catalogue's name
    network: ListedLink | None = None
    nics: int | None = None


def cluster_of(text: str) -> Cluster:
    """The cluster that a line of shorthand means, with the figures of the catalogue.

    Inside a node: what joins such devices by the catalogue (NVLink and the like), and a PCIe slot for each. Between
    nodes: a non-blocking switch per network, to which each node has a NIC per device (InfiniBand, RoCE) or one
    (Ethernet), unless ``@2xNDR`` says how many. A term without a network is on the next term's, or on the last one's.
    Several networks meet in a link as fast as the narrower side's NICs together. Raises GrainlineError that names the
    piece that isn't right.
    """
    terms = [_term(piece) for piece in _split(text)]
    networks = _networks(terms)
    alone = sum(term.nodes for term in terms) == 1
    nodes, links = [], []
    for i, (term, network) in enumerate(zip(terms, networks, strict=True)):
        name = _letters(i)
        listed = [catalogue().device(device) for device in term.devices]
        count = term.nics or (_accelerators(listed, term.devices) if network.per == "device" else 1)
        nics = () if alone and term.network is None else (network.nic(count),)
        nodes.append(Node(name=name, count=term.nodes, devices=term.devices, nics=nics))
        links += _inside(name, listed, term.devices)
    switches, outer = ([], []) if alone else _outside(nodes, networks)
    types = {device: catalogue().device(device).device for term in terms for device in term.devices}
    return Cluster(
        device_types=tuple(types.values()), nodes=tuple(nodes), switches=tuple(switches), links=(*links, *outer)
    )


def _split(text: str) -> list[str]:
    """The terms: what stands between the + outside of brackets."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth not in (0, 1):
            break
        if letter == "+" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    if depth:
        raise GrainlineError(f"cluster '{text}': the brackets don't match. {EXAMPLE}")
    for piece in pieces:
        if not piece.strip():
            raise GrainlineError(f"cluster '{text}': there is nothing to one side of a +. {EXAMPLE}")
    return pieces


def _term(piece: str) -> Term:
    body, at, network = piece.partition("@")
    nics, link = None, None
    if at:
        nics, name = _counted(network, piece, one=None)
        link = _listed_network(name, piece)
    nodes, inner = 1, body.strip()
    if "(" in body:
        found = re.fullmatch(r"(.*?)\((.*)\)\s*", body, re.DOTALL)
        before = found[1] + "nodes" if found else ""
        if found is None or (found[1].strip() and COUNT.match(before) is None):
            raise GrainlineError(f"cluster, in '{piece.strip()}': brackets hold one node's devices. {EXAMPLE}")
        nodes, inner = (_counted(before, piece, one=1)[0] if found[1].strip() else 1) or 1, found[2]
    devices: Counter[str] = Counter()
    for each in inner.split("+"):
        count, name = _counted(each, piece, one=1)
        try:
            devices[catalogue().device(name).name] += count or 1
        except GrainlineError as error:
            raise GrainlineError(f"cluster, in '{piece.strip()}': {error}") from None
    return Term(piece.strip(), nodes, dict(devices), link, nics)


def _counted(text: str, piece: str, one: int | None) -> tuple[int | None, str]:
    """``4xA100`` as 4 and A100; `one` where there is no count."""
    found = COUNT.match(text)
    count, name = (int(found[1]), text[found.end() :].strip()) if found else (one, text.strip())
    if count is not None and not 1 <= count <= MOST:
        raise GrainlineError(f"cluster, in '{piece.strip()}': a count must lie between 1 and {MOST}, not {count}.")
    if not name:
        raise GrainlineError(f"cluster, in '{piece.strip()}': a name is missing. {EXAMPLE}")
    return count, name


def _listed_network(name: str, piece: str) -> ListedLink:
    try:
        link = catalogue().link(name)
    except GrainlineError as error:
        raise GrainlineError(f"cluster, in '{piece.strip()}': {error}") from None
    if link.place != "network":
        networks = ", ".join(link.name for link in catalogue().links if link.place == "network")
        raise GrainlineError(
            f"cluster, in '{piece.strip()}': '{link.name}' joins devices inside a node, and @ names what joins nodes: "
            f"{networks}."
        )
    return link


def _networks(terms: list[Term]) -> list[ListedLink]:
    """Each term's network: its own, else that of the next term that has one, else the last one's, else the usual."""
    given = [term.network for term in terms if term.network is not None]
    usual = (
        catalogue()
        .link(USUAL_NETWORK)
        .model_copy(update={"source": "assumed", "reference": "the cluster doesn't say what joins its nodes"})
    )
    after, found = given[-1] if given else usual, []
    for term in reversed(terms):
        after = term.network or after
        found.append(after)
    return found[::-1]


def _accelerators(listed: list[ListedDevice], devices: dict[str, int]) -> int:
    """How many devices of a node a network counts: all but CPUs, unless it has nothing else."""
    return sum(devices[d.name] for d in listed if d.kind != "cpu") or sum(devices.values())


def _inside(node: str, listed: list[ListedDevice], devices: dict[str, int]) -> list[Link]:
    found = []
    for key in ("fabric", "slot"):
        on: dict[str, list[str]] = {}
        for device in listed:
            if name := getattr(device, key):
                on.setdefault(name, []).append(device.name)
        for name, joined in on.items():
            if key == "slot" or sum(devices[device] for device in joined) > 1:
                found.append(catalogue().link(name).inside(node, tuple(joined)))
    return found


def _outside(nodes: list[Node], networks: list[ListedLink]) -> tuple[list[Switch], list[Link]]:
    carried: Counter[str] = Counter()  # bytes per second of all NICs on a network
    links = []
    for node, network in zip(nodes, networks, strict=True):
        carried[network.name] += int(node.count * sum(nic.count * nic.bytes_per_second for nic in node.nics))
        links.append(
            Link(
                between=(node.name, _switch(network.name)),
                latency_seconds=0.0,
                source=network.source,
                reference=network.reference,
            )
        )
    for a, b in itertools.pairwise(list(carried)):
        links.append(
            Link(
                between=(_switch(a), _switch(b)),
                latency_seconds=0.0,
                bytes_per_second=min(carried[a], carried[b]),
                source="assumed",
                reference="where two networks meet: as fast as the NICs of the narrower one together",
            )
        )
    switches = [
        Switch(name=_switch(name), source="assumed", reference="non-blocking; its latency is in the NICs'")
        for name in carried
    ]
    return switches, links


def _switch(network: str) -> str:
    return f"{network} switch"


def _letters(i: int) -> str:
    """a, b, … z, n26, …"""
    return chr(ord("a") + i) if i < 26 else f"n{i}"
