"""What serving costs: a step of prefill and decode op by op, memory, and the most requests a second under objectives.

The path is `ops` (what one kernel computes and moves) → `speed` (how long that takes on a device type, and where each
figure comes from) → `step` (the ops of a model's step on a replica) → `times` (a step's seconds, quickly) →
`throughput` (requests a second). `calibrate` corrects `speed` by measured ops.
"""
