"""A small, stateful stand-in for the v2beta1 API over real HTTP; see cluster_state.py for what it does not show.

Requests are read and answers are written with the model classes of the official ``kfp_server_api``: a field that
those do not have, a path that the API does not have, or a page token of another query is an error.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as server
from cluster_state import RefusedError, State

PACKAGE = str(Path(__file__).parents[2] / "pipelines" / "batch_segmentation" / "pipeline.yaml")
#: What batch-segmentation needs, and the same for the command line.
GIVEN = {"source_uri": "s3://in/photos", "output_uri": "s3://out/masks", "prompts": ["a cat"]}
SET = ("-p", "source_uri=s3://in/photos", "-p", "output_uri=s3://out/masks", "-p", "prompts=a cat")
_MODELS = server.ApiClient(server.Configuration())
_ID = r"([^/:]+)"


class Backend:
    """Runs on a free port of loopback while the context is open.

    Attributes:
        state: what is on the cluster.
        tokens: namespaces by token; empty lets everybody in.
        cookies: values of the Cookie header that are let in.
        faults: statuses of the next answers, whatever is asked; 0 cuts the connection, -1 cuts it after the work.
        page: answer everything with this HTML, status 200, as a login page before the API does.
        requests: method and path of all requests so far.
    """

    def __init__(self, *, multi_user: bool = False, certificate: Path | None = None) -> None:
        self.state = State(multi_user=multi_user)
        self.tokens: dict[str, list[str]] = {}
        self.cookies: set[str] = set()
        self.faults: list[int] = []
        self.page = ""
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Backend:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, pattern: str) -> int:
        """How many requests of a method matched a path so far."""
        return sum(verb == method and bool(re.search(pattern, path)) for verb, path in self.requests)


def model(name: str, data: Any) -> Any:
    """JSON as an official model; fields that it does not have are refused, at every depth."""
    _known(name, data)
    return _MODELS.deserialize(SimpleNamespace(data=json.dumps(data)), name)


def _known(kind: str, data: Any) -> None:
    listed = re.match(r"list\[(.*)\]$", kind)
    if listed:
        for one in data:
            _known(listed[1], one)
        return
    mapped = re.match(r"dict\(str, (.*)\)$", kind)
    if mapped:
        for one in data.values():
            _known(mapped[1], one)
        return
    cls = getattr(server.models, kind, None)
    if cls is None or not cls.openapi_types:
        return
    if not isinstance(data, dict):
        raise RefusedError(400, f"{kind} is no object: {data!r}")
    fields = {json_name: attribute for attribute, json_name in cls.attribute_map.items()}
    for name, value in data.items():
        if name not in fields:
            raise RefusedError(400, f'proto: unknown field "{name}" in {kind}')
        if value is not None:
            _known(cls.openapi_types[fields[name]], value)


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            with backend.lock:
                backend.requests.append((self.command, self.path))
                fault = backend.faults.pop(0) if backend.faults else None
                if fault == 0:
                    return self._cut()
                try:
                    if fault is not None and fault > 0:
                        raise RefusedError(fault, "the server is out of sorts")
                    if backend.page:
                        return self._send(200, backend.page.encode(), "text/html; charset=utf-8")
                    self._admit(parts)
                    answer = _route(backend, self.command, parts, body, self.headers)
                except RefusedError as error:
                    return self._send(error.status, json.dumps(error.body()).encode())
                if fault == -1:
                    return self._cut()
            plain = _MODELS.sanitize_for_serialization(answer)
            return self._send(200, json.dumps(plain if plain is not None else {}).encode())

        def _admit(self, parts: Any) -> None:
            if not backend.tokens and not backend.cookies:
                return
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            if self.headers.get("Cookie") in backend.cookies:
                return
            if token not in backend.tokens:
                raise RefusedError(401, "Unauthenticated: no valid identity")
            wanted = parse_qs(parts.query).get("namespace", [""])[0]
            if wanted and wanted not in backend.tokens[token]:
                raise RefusedError(403, f"User is not authorized to access namespace {wanted}")

        def _cut(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _serve

    return Handler


def _route(backend: Backend, method: str, parts: Any, body: bytes, headers: Any) -> Any:
    state = backend.state
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    path = parts.path
    if (method, path) == ("GET", "/apis/v1beta1/healthz"):
        return {"commit_sha": "0" * 40, "tag_name": state.version, "multi_user": state.multi_user}
    for verb, pattern, action in _ROUTES:
        found = re.fullmatch(f"/apis/v2beta1/{pattern}", path)
        if verb == method and found:
            return action(
                SimpleNamespace(
                    state=state,
                    key=[unquote(one) for one in found.groups()],
                    query=query,
                    body=body,
                    headers=headers,
                )
            )
    raise RefusedError(404, f"no such path: {method} {path}")


def _json(ask: Any, name: str) -> Any:
    return model(name, json.loads(ask.body))


def _listed(ask: Any, everything: dict[str, Any], items: str, answer: str) -> Any:
    """A page: filtered, sorted, cut; the token belongs to one query."""
    query = ask.query
    predicates = []
    if query.get("filter"):
        # The real server decodes the filter once more than HTTP does, and takes names in both spellings.
        text = unquote(query["filter"].replace("+", " ")).replace('"stringValue"', '"string_value"')
        predicates = model("V2beta1Filter", json.loads(text)).predicates or []
    rows = [one for one in everything.values() if all(_matches(one, each) for each in predicates)]
    if items not in ("pipeline_versions", "runs"):
        owners = ask.state.experiments if items == "recurring_runs" else {}
        rows = [
            one
            for one in rows
            if (owners.get(getattr(one, "experiment_id", ""), one).namespace or "")
            == query.get("namespace", "")
        ]
    key, _, direction = (query.get("sort_by") or "created_at").partition(" ")
    rows.sort(key=lambda one: getattr(one, key), reverse=direction == "desc")
    same = json.dumps([query.get("filter", ""), query.get("sort_by", ""), query.get("namespace", "")])
    start = 0
    if query.get("page_token"):
        start, made_for = json.loads(base64.b64decode(query["page_token"]))
        if made_for != same:
            raise RefusedError(
                400, "page token does not match the supplied sort by and/or filtering criteria."
            )
    size = min(int(query.get("page_size") or 20) or 20, 200)
    token = base64.b64encode(json.dumps([start + size, same]).encode()).decode()
    more = start + size < len(rows)
    return getattr(server, answer)(
        **{
            items: rows[start : start + size],
            "total_size": len(rows),
            "next_page_token": token if more else None,
        }
    )


def _matches(one: Any, predicate: Any) -> bool:
    value = getattr(one, predicate.key)
    operation = {1: "EQUALS", 9: "IS_SUBSTRING"}.get(predicate.operation, predicate.operation)
    if operation == "EQUALS":
        return bool(value == predicate.string_value)
    if operation == "IS_SUBSTRING":
        return predicate.string_value in value
    raise RefusedError(400, f"operation {operation}")


def _uploaded(ask: Any) -> Any:
    kind = ask.headers["Content-Type"]
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + ask.body)
    files = [
        part
        for part in message.iter_parts()
        if part.get_param("name", header="content-disposition") == "uploadfile"
    ]
    if len(files) != 1 or not ask.query.get("pipelineid"):
        raise RefusedError(400, "Failed to create a pipeline version")
    text = files[0].get_payload(decode=True).decode()
    return ask.state.upload_version(
        ask.query["pipelineid"], ask.query.get("name", ""), ask.query.get("description", ""), text
    )


def _version(ask: Any) -> Any:
    found = ask.state.need(ask.state.versions, ask.key[1], "PipelineVersion")
    if found.pipeline_id != ask.key[0]:
        raise RefusedError(404, "PipelineVersion not found")
    return found


def _run_list(ask: Any) -> Any:
    state = ask.state
    if state.multi_user and not (ask.query.get("namespace") or ask.query.get("experiment_id")):
        raise RefusedError(400, "Invalid input error: a namespace is needed in multi-user mode")
    if not state.multi_user and ask.query.get("namespace"):
        raise RefusedError(400, "In single-user mode, ListRuns cannot filter by namespace.")
    wanted = ask.query.get("experiment_id")
    namespace = ask.query.get("namespace") or None
    runs = {
        key: run
        for key, run in state.runs.items()
        if run.experiment_id == wanted
        or (not wanted and state.experiments[run.experiment_id].namespace == namespace)
    }
    return _listed(ask, runs, "runs", "V2beta1ListRunsResponse")


def _delete_recurring(ask: Any) -> Any:
    ask.state.need(ask.state.recurring, ask.key[0], "RecurringRun")
    del ask.state.recurring[ask.key[0]]
    return {}


_ROUTES: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("GET", "healthz", lambda a: server.V2beta1GetHealthzResponse(multi_user=a.state.multi_user)),
    (
        "GET",
        "pipelines",
        lambda a: _listed(a, a.state.pipelines, "pipelines", "V2beta1ListPipelinesResponse"),
    ),
    ("POST", "pipelines", lambda a: a.state.create_pipeline(_json(a, "V2beta1Pipeline"))),
    ("POST", "pipelines/upload_version", _uploaded),
    (
        "GET",
        f"pipelines/{_ID}/versions",
        lambda a: _listed(
            a,
            {k: v for k, v in a.state.versions.items() if v.pipeline_id == a.key[0]},
            "pipeline_versions",
            "V2beta1ListPipelineVersionsResponse",
        ),
    ),
    ("GET", f"pipelines/{_ID}/versions/{_ID}", _version),
    (
        "GET",
        "experiments",
        lambda a: _listed(a, a.state.experiments, "experiments", "V2beta1ListExperimentsResponse"),
    ),
    ("POST", "experiments", lambda a: a.state.create_experiment(_json(a, "V2beta1Experiment"))),
    ("GET", "runs", _run_list),
    ("POST", "runs", lambda a: a.state.create_run(_json(a, "V2beta1Run"))),
    ("GET", f"runs/{_ID}", lambda a: a.state.look(a.key[0])),
    ("POST", f"runs/{_ID}:terminate", lambda a: a.state.terminate(a.key[0])),
    ("POST", f"runs/{_ID}:retry", lambda a: a.state.retry(a.key[0])),
    (
        "GET",
        "recurringruns",
        lambda a: _listed(a, a.state.recurring, "recurring_runs", "V2beta1ListRecurringRunsResponse"),
    ),
    ("POST", "recurringruns", lambda a: a.state.create_recurring(_json(a, "V2beta1RecurringRun"))),
    ("GET", f"recurringruns/{_ID}", lambda a: a.state.need(a.state.recurring, a.key[0], "RecurringRun")),
    ("DELETE", f"recurringruns/{_ID}", _delete_recurring),
    ("POST", f"recurringruns/{_ID}:enable", lambda a: a.state.switch(a.key[0], "ENABLE")),
    ("POST", f"recurringruns/{_ID}:disable", lambda a: a.state.switch(a.key[0], "DISABLE")),
]
