"""Answering: an OpenAI-compatible HTTP API over an engine, its text and its chat templates."""

from typing import TYPE_CHECKING

from grainline._lazy import lazy_exports

if TYPE_CHECKING:
    from grainline.serve.app import build_app
    from grainline.serve.engine import Engine, EngineClosed, Generation, GenerationRequest
    from grainline.serve.prepare import Served
    from grainline.serve.sequential import SequentialEngine
    from grainline.serve.templates import ChatTemplate
    from grainline.serve.text import StopMatcher, TextStream

__all__ = [
    "ChatTemplate",
    "Engine",
    "EngineClosed",
    "Generation",
    "GenerationRequest",
    "SequentialEngine",
    "Served",
    "StopMatcher",
    "TextStream",
    "build_app",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ChatTemplate": "templates",
        "Engine": "engine",
        "EngineClosed": "engine",
        "Generation": "engine",
        "GenerationRequest": "engine",
        "SequentialEngine": "sequential",
        "Served": "prepare",
        "StopMatcher": "text",
        "TextStream": "text",
        "build_app": "app",
    },
)
