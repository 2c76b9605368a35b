"""Where clusters come from, besides files: a line of shorthand, and this machine."""

from __future__ import annotations

from typing import Self

from grainline import documents


class Cluster(documents.Cluster):
    """The cluster document with the ways to one that need the catalogue or the machine; what `grainline` exports."""

    @classmethod
    def of(cls, text: str) -> Self:
        """``Cluster.of("4xA100-80 + 4xA10G@25GbE")``: see `grainline.hardware.shorthand.cluster_of`."""
        from grainline.hardware.shorthand import cluster_of

        return cls.parse(cluster_of(text).tables(), where=text)

    @classmethod
    def measure(cls, name: str = "here", quick: bool = False) -> Self:
        """This machine as a cluster of one node called `name`, measured afresh: a minute, or seconds if `quick`."""
        from grainline.hardware.measure import measure

        return cls.parse(measure(quick=quick).to_cluster(name).tables(), where="this machine")
