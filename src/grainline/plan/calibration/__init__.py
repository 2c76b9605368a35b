"""What a run took against what was predicted, and a cluster's rates corrected by it."""

from grainline.plan.calibration.calibrate import calibrate
from grainline.plan.calibration.compare import Compared, Pass, Way, compare

__all__ = ["Compared", "Pass", "Way", "calibrate", "compare"]
