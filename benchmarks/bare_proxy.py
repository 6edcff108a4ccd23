"""A proxy that only passes chat requests on, with which benchmarks/performance.py compares `waltz serve`.

`python -m benchmarks.bare_proxy URL` passes them on to URL; without one, it gives a fixed answer itself.
"""

from __future__ import annotations

import sys

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

ANSWER = {
    "id": "0",
    "object": "chat.completion",
    "created": 0,
    "model": "waltz",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Use its name."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12},
}


def application(upstream: str | None) -> FastAPI:
    """The application; without ``upstream`` it answers itself."""
    app = FastAPI()
    client = httpx.AsyncClient(base_url=upstream or "", timeout=60)

    @app.post("/v1/chat/completions", response_model=None)
    async def answer(request: Request) -> Response | dict[str, object]:
        body = await request.body()
        if upstream is None:
            return ANSWER
        headers = {"content-type": "application/json"}
        answered = await client.post("/v1/chat/completions", content=body, headers=headers)
        return Response(answered.content, answered.status_code, media_type="application/json")

    return app


if __name__ == "__main__":
    uvicorn.run(application(next(iter(sys.argv[1:]), None)), port=0, access_log=False)
