"""When: schedules as lists of actions, the task graph, its simulator, and the timeline. No torch here."""

from grainline.schedule.actions import Action, Kind
from grainline.schedule.costs import Costs, StageCost, equal_costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.members.breadth_first import breadth_first
from grainline.schedule.members.dualpipe_v import dualpipe_v
from grainline.schedule.members.gpipe import gpipe
from grainline.schedule.members.interleaved import interleaved_1f1b
from grainline.schedule.members.one_f_one_b import eager_1f1b, one_f_one_b
from grainline.schedule.members.v_schedules import v_half, v_min, zb_v
from grainline.schedule.members.zero_bubble import zb_auto, zb_h1, zb_h2
from grainline.schedule.passes.messages import add_messages
from grainline.schedule.passes.offload import with_offload
from grainline.schedule.passes.recompute import with_recompute
from grainline.schedule.passes.split import split_backward
from grainline.schedule.passes.update import add_update
from grainline.schedule.passes.vocabulary import add_vocabulary_passes
from grainline.schedule.schedule import Hop, Schedule
from grainline.schedule.simulator.graph import TaskGraph
from grainline.schedule.simulator.lower import lower
from grainline.schedule.simulator.network import Network
from grainline.schedule.simulator.perturb import perturb
from grainline.schedule.simulator.simulate import simulate
from grainline.schedule.table import SCHEDULES, PipelineSchedule, make_schedule
from grainline.schedule.timeline import Timeline
from grainline.schedule.validate import peak_in_flight, validate

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "Hop",
    "Kind",
    "Network",
    "PipelineSchedule",
    "Schedule",
    "ScheduleError",
    "StageCost",
    "TaskGraph",
    "Timeline",
    "add_messages",
    "add_update",
    "add_vocabulary_passes",
    "breadth_first",
    "dualpipe_v",
    "eager_1f1b",
    "equal_costs",
    "gpipe",
    "interleaved_1f1b",
    "lower",
    "make_schedule",
    "one_f_one_b",
    "peak_in_flight",
    "perturb",
    "simulate",
    "split_backward",
    "v_half",
    "v_min",
    "validate",
    "with_offload",
    "with_recompute",
    "zb_auto",
    "zb_h1",
    "zb_h2",
    "zb_v",
]
