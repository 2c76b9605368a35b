"""Layouts: how the training of a model is spread over a cluster, and which way is best.

`strategy` is what is chosen, `problem` what it is chosen for; `step.evaluate` says what a strategy takes, from
`operators` (what a rank has to do), `pace` (how fast a device does it) and `fleet` (what messages take); `space` lists
the strategies, `searches` go through them; `planned` writes the choice as a Plan, `bill` adds up what a run costs.
"""

from grainline.plan.layouts.searches import SEARCHES, Budget, Found, Ranked

__all__ = ["SEARCHES", "Budget", "Found", "Ranked"]
