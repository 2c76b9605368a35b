"""`grainline serve`: answer the OpenAI HTTP API with a model."""

from __future__ import annotations

import os

from grainline.documents import GrainlineError

API_KEY = "GRAINLINE_API_KEY"
LOOPBACK = ("127.", "::1", "localhost")
INTERRUPTED = 130


def run(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    name: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    chat_template: str | None = None,
    max_waiting: int = 64,
) -> int:
    """Answer the OpenAI HTTP API with a model, until Ctrl-C.

    Clients use http://HOST:PORT/v1 as their base URL: /v1/chat/completions, /v1/completions and /v1/models, streamed or
    whole. /health and /metrics (Prometheus) tell how it is. Ctrl-C lets running requests finish for up to 30 seconds.

      grainline serve runs/quickstart/model
      GRAINLINE_API_KEY=secret grainline serve ORG/NAME --host 0.0.0.0 --port 80

    Args:
        model: a model's folder, a training run's folder, or a hub id ORG/NAME.
        host: the address to listen on; 0.0.0.0 is every one this machine has.
        port: the port; 0 takes a free one and says which.
        api_key: the key that clients must send; GRAINLINE_API_KEY sets it too, out of other users' sight.
        name: what clients call the model; default: its folder's name or hub id.
        dtype: of the weights, such as float32 or bfloat16; default: as stored.
        device: where to compute, such as cpu or cuda:1; auto: a GPU if there is one.
        chat_template: a Jinja file, or 'plain' for "role: content" lines; default: the model's own, else plain.
        max_waiting: sequences that may wait for their turn; further requests are answered 429.
    """
    import logging

    key = os.environ.get(API_KEY) if api_key is None else api_key
    if key is not None and not key.strip():
        raise GrainlineError(f"--api-key ({API_KEY}): is empty; give a key, or leave it out.")
    if not 0 <= port <= 65535:
        raise GrainlineError(f"--port {port}: must lie between 0 and 65535.")
    if max_waiting < 1:
        raise GrainlineError(f"--max-waiting {max_waiting}: must be at least 1.")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for ours in ("grainline", "uvicorn.access"):  # others tell of every request to the hub, or of torch's caches
        logging.getLogger(ours).setLevel(logging.INFO)
    log = logging.getLogger(__name__)
    from grainline.serve import server

    # Before the model is loaded, which takes a while, to learn at once that the port is taken.
    with server.bind(host, port) as listener:
        from grainline.serve.app import build_app
        from grainline.serve.loading import open_model

        log.info("Loading %s.", model)
        served = open_model(model, name=name, dtype=dtype, device=device, chat_template=chat_template)
        app = build_app(served, api_key=key, max_waiting=max_waiting)
        if key is None and not host.startswith(LOOPBACK):
            log.warning("Anyone who reaches %s may use this server: no API key is set (%s).", host, API_KEY)
        where, context = f"{server.address_of(listener)}/v1", served.engine.context_tokens
        log.info("Serving '%s' at %s with a context of %d tokens. Ctrl-C stops it.", served.name, where, context)
        try:
            server.run(app, served.engine, listener)
        except KeyboardInterrupt:
            log.info("Stopped.")
            return INTERRUPTED
    return 0
