"""Pipelines: stages on several ranks, the messages between them, and the runtime that carries out a schedule."""

from grainline.parallel.pipeline.connect import Connection
from grainline.parallel.pipeline.failure import PipelineError
from grainline.parallel.pipeline.mail import Arrival
from grainline.parallel.pipeline.reduce import Grid
from grainline.parallel.pipeline.runtime import Passes, PipelineRuntime, StepResult
from grainline.parallel.pipeline.transport import GlooTransport, Message, NcclTransport, Transport

__all__ = [
    "Arrival",
    "Connection",
    "GlooTransport",
    "Grid",
    "Message",
    "NcclTransport",
    "Passes",
    "PipelineError",
    "PipelineRuntime",
    "StepResult",
    "Transport",
]
