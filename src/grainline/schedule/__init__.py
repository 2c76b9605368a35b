"""When: schedules as lists of actions, the task graph, its simulator, and the timeline. No torch here."""

from grainline.schedule.actions import Action, Kind
from grainline.schedule.costs import Costs, StageCost, equal_costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.gpipe import gpipe
from grainline.schedule.graph import TaskGraph
from grainline.schedule.lower import lower
from grainline.schedule.messages import add_messages
from grainline.schedule.network import Network
from grainline.schedule.perturb import perturb
from grainline.schedule.schedule import Hop, Schedule
from grainline.schedule.simulate import simulate
from grainline.schedule.table import SCHEDULES, PipelineSchedule, make_schedule
from grainline.schedule.timeline import Timeline

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
    "equal_costs",
    "gpipe",
    "lower",
    "make_schedule",
    "perturb",
    "simulate",
]
