"""Asking a server that plays a script."""

import asyncio

import pytest

from .scripted import Script, ScriptedEngine, client_of, serve


@pytest.fixture
def ask():
    """`ask(path, body, script=…)` → the response of a fresh server, with `.engine` to look at."""

    def ask(path: str, body=None, script: Script = lambda request: [], *, content=None, headers=None, **options):
        async def run():
            engine = ScriptedEngine(script, **options.pop("engine", {}))
            async with client_of(serve(engine, **options.pop("served", {})), **options) as client:
                if body is None and content is None:
                    response = await client.get(path, headers=headers)
                elif content is not None:
                    response = await client.post(
                        path, content=content, headers={"content-type": "application/json"} | (headers or {})
                    )
                else:
                    response = await client.post(path, json=body, headers=headers)
            response.engine = engine
            return response

        return asyncio.run(run())

    return ask
