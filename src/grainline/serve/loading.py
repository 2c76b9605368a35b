"""A model folder or hub id, ready to be served."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from grainline.models.loading import load
from grainline.serve.prepare import Served
from grainline.serve.sequential import SequentialEngine
from grainline.serve.templates import ChatTemplate
from grainline.serve.tokens import TokenText, names_by_role

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

PLAIN = "plain"
log = logging.getLogger(__name__)


def open_model(
    model: str,
    *,
    name: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    chat_template: str | None = None,
) -> Served:
    """Load a model and start its engine.

    name: what clients call it; default: its folder's name or hub id. dtype: of the weights, default as stored. device:
    "auto" takes a GPU where there is one. chat_template: a Jinja file, or "plain"; default the model's own, and plain
    where it has none. Raises GrainlineError.
    """
    loaded, tokenizer = load(model, dtype=dtype, device=device)
    return Served(
        name=name or name_of(model),
        engine=SequentialEngine(loaded),
        tokenizer=tokenizer,
        tokens=TokenText(tokenizer),
        template=choose_template(tokenizer, chat_template),
        stop_ids=frozenset(id for id in (*loaded.config.stop_token_ids, tokenizer.eos_token_id) if id is not None),
    )


def name_of(model: str) -> str:
    """What a model is called unless told otherwise: its hub id, its folder, or the run that a folder `model` is in."""
    path = Path(model).expanduser()
    if not path.is_dir():
        return model.partition("@")[0]
    path = path.resolve()
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def choose_template(tokenizer: Tokenizer, choice: str | None) -> ChatTemplate:
    """The chat template asked for, else the model's own, else plain with a warning."""
    if choice == PLAIN:
        return ChatTemplate.plain()
    names = names_by_role(tokenizer)
    if choice is not None:
        return ChatTemplate.load(choice, names)
    if tokenizer.chat_template is not None:
        return ChatTemplate(tokenizer.chat_template, "the model's own", names)
    log.warning(
        "This model has no chat template, so it was not tuned to chat. Chats are put to it as plain 'role: content' "
        "lines, and an answer ends at the next such line. --chat-template FILE gives it a template; --chat-template "
        "plain says that this is meant."
    )
    return ChatTemplate.plain()
