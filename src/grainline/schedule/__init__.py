"""When: schedules as lists of actions, the task graph, its simulator, and the timeline. No torch here."""

from grainline.schedule.actions import Action, Kind
from grainline.schedule.breadth_first import breadth_first
from grainline.schedule.costs import Costs, StageCost, equal_costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.dualpipe_v import dualpipe_v
from grainline.schedule.gpipe import gpipe
from grainline.schedule.graph import TaskGraph
from grainline.schedule.interleaved import interleaved_1f1b
from grainline.schedule.lower import lower
from grainline.schedule.messages import add_messages
from grainline.schedule.network import Network
from grainline.schedule.offload import with_offload
from grainline.schedule.one_f_one_b import eager_1f1b, one_f_one_b
from grainline.schedule.perturb import perturb
from grainline.schedule.recompute import with_recompute
from grainline.schedule.schedule import Hop, Schedule
from grainline.schedule.simulate import simulate
from grainline.schedule.split import split_backward
from grainline.schedule.table import SCHEDULES, PipelineSchedule, make_schedule
from grainline.schedule.timeline import Timeline
from grainline.schedule.update import add_update
from grainline.schedule.v_schedules import v_half, v_min, zb_v
from grainline.schedule.validate import peak_in_flight, validate
from grainline.schedule.vocabulary import add_vocabulary_passes
from grainline.schedule.zero_bubble import zb_auto, zb_h1, zb_h2

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
