"""What the coefficient editor asks the server: words of the vocabulary, and nothing else."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ..core.conceptor.vocabulary import completions
from . import host

LONGEST, MOST = 64, 100  # of a query, and of an answer
LIMITS = {str(limit) for limit in range(1, MOST + 1)}


def register() -> None:
    """GET /conceptlens/tokens?query=do&limit=20 gives [{"id": 1929, "text": "dog"}, ...]."""
    host.routes().get("/conceptlens/tokens")(tokens)


async def tokens(request: web.Request) -> web.Response:
    query, limit = request.query.get("query", "").strip(), request.query.get("limit", "20")
    if not 0 < len(query) <= LONGEST:
        return _refused(f"The query has {len(query)} letters; send 1 to {LONGEST}.")
    if limit not in LIMITS:  # compared as text: Python refuses to read numbers of thousands of digits
        return _refused(f"The limit is {limit[:LONGEST]}; send a number from 1 to {MOST}.")
    words = await asyncio.to_thread(host.words)  # read once, which takes a second
    return web.json_response([{"id": token, "text": text} for token, text in completions(words, query, int(limit))])


def _refused(reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=400)
