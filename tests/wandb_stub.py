"""A W&B server on localhost, for the requests of `wandb.Api().runs` and `run.history`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = 2  # fewer than the runs of a test: the client must request several pages


def run(name: str, group: str, config: dict, summary: dict, history=(), state="finished") -> dict:
    """Return a run as the server stores it."""
    config = {key: {"value": value} for key, value in config.items()}
    return {
        "name": name,
        "group": group,
        "state": state,
        "config": json.dumps(config),
        "summaryMetrics": json.dumps(summary),
        "history": list(history),
    }


def _node(stored: dict[str, Any]) -> dict[str, Any]:
    node = dict.fromkeys(
        ["sweepName", "jobType", "commit", "description", "notes", "systemMetrics", "heartbeatAt"]
    )
    node |= {"id": stored["name"], "displayName": stored["name"], "tags": [], "readOnly": False}
    node |= {"createdAt": "2026-01-01T00:00:00Z", "projectId": "1", "historyKeys": {}}
    node |= {"historyLineCount": len(stored["history"]), "user": {"name": "a", "username": "a"}}
    return node | {key: value for key, value in stored.items() if key != "history"}


def _project(runs: list[dict], query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
    if variables["project"] != "cells":
        return None
    if "sampledHistory" in query:
        keys = json.loads(variables["specs"][0])["keys"]
        stored = next(run for run in runs if run["name"] == variables["name"])
        rows = [row for row in stored["history"] if all(key in row for key in keys)]
        return {"run": {"sampledHistory": [[{key: row[key] for key in keys} for row in rows]]}}
    if variables.get("name"):
        return {"run": next(_node(run) for run in runs if run["name"] == variables["name"])}
    group = json.loads(variables.get("filters") or "{}").get("group")
    matching = [run for run in runs if group in (None, run["group"])]
    start = int(variables.get("cursor") or 0)
    page = matching[start : start + PAGE]
    edges = [{"node": _node(run), "cursor": str(start + i + 1)} for i, run in enumerate(page)]
    more = start + PAGE < len(matching)
    info = {"endCursor": str(start + len(page)), "hasNextPage": more}
    connection = {"edges": edges, "pageInfo": info}
    return {"internalId": "1", "runCount": len(matching), "readOnly": False, "runs": connection}


@contextmanager
def serve(runs: list[dict]) -> Iterator[str]:
    """Serve `runs` as entity `lab`, project `cells`, and yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            query, variables = request["query"], request.get("variables") or {}
            if "project" in variables:
                data: dict[str, Any] = {"project": _project(runs, query, variables)}
            else:  # a request for the user and the features of the server
                viewer = {"id": "1", "entity": "lab", "username": "a", "flags": "{}"}
                data = {"viewer": viewer, "serverInfo": {"features": []}}
            answer = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
