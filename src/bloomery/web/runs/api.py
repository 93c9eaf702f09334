"""The addresses of the page of runs: reading by GET, resume and stop by POST."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args  # Any: JSON

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bloomery.chat.refusal import Refusal
from bloomery.web.context import WebContext
from bloomery.web.http import Body, events, in_thread, query, read_body, reply
from bloomery.web.runs.columns import MetricsReader
from bloomery.web.runs.compare import differing_fields
from bloomery.web.runs.control import Resumer, stop
from bloomery.web.runs.curves import Axis
from bloomery.web.runs.export import csv_lines
from bloomery.web.runs.findings import Doctor
from bloomery.web.runs.live import Shown, Sources, decode_cursors, watch
from bloomery.web.runs.results import read_samples, read_scores
from bloomery.web.runs.view import MAX_BUCKETS, MAX_METRICS, Summaries, buckets_for, curve_reply, detail, find_sources, read_columns

MAX_COMPARED = 20
MAX_NAME = 200


class Nothing(Body):
    """The body of a request that says all by its address."""


def routes(context: WebContext) -> list[Route]:
    """The routes of the page, over one reader of metrics and one set of resumed processes."""
    page = _Runs(context)
    return [
        Route("/api/runs", page.show_list, methods=["GET"]),
        Route("/api/runs/live", page.live, methods=["GET"]),
        Route("/api/runs/curves", page.curves, methods=["GET"]),
        Route("/api/runs/curves.csv", page.csv, methods=["GET"]),
        Route("/api/runs/compare", page.compare, methods=["GET"]),
        Route("/api/runs/{run}", page.show, methods=["GET"]),
        Route("/api/runs/{run}/findings", page.findings, methods=["GET"]),
        Route("/api/runs/{run}/results", page.results, methods=["GET"]),
        Route("/api/runs/{run}/resume", page.resume, methods=["POST"]),
        Route("/api/runs/{run}/stop", page.stop, methods=["POST"]),
    ]


class _Runs:
    def __init__(self, context: WebContext) -> None:
        self.context = context
        self.reader = MetricsReader()
        self.resumer = Resumer(context.store)
        self.doctor = Doctor()
        self.summaries = Summaries(context.store)

    async def show_list(self, request: Request) -> Response:
        """GET /api/runs"""
        return reply({"runs": await in_thread(self._summaries), "store": str(self.context.store.root)})

    def _summaries(self) -> list[dict[str, Any]]:
        self.resumer.reap()
        return self.summaries.rows(self.context.directory.runs())

    async def show(self, request: Request) -> Response:
        """GET /api/runs/RUN"""
        entry = await in_thread(self.context.directory.run, request.path_params["run"])
        return reply(await in_thread(detail, entry, self.context.store))

    async def live(self, request: Request) -> Response:
        """GET /api/runs/live?list=1&run=RUN&of=RUN.STAGE&metric=NAME&x=step&cursors=..., a stream of events"""
        shown = Shown(
            is_list=query(request, "list", int, 0) == 1,
            run_id=query(request, "run", str, ""),
            sources=request.query_params.getlist("of"),
            metrics=_metrics(request),
            axis=_axis(request),
        )
        cursors = decode_cursors(request.headers.get("last-event-id") or query(request, "cursors", str, "{}"))
        await in_thread(self._find, shown.sources)  # unknown ones are told before the stream begins
        sources = Sources(context=self.context, reader=self.reader, summaries=self.summaries)
        return events(watch(shown, sources, {key: value for key, value in cursors.items() if key in shown.sources}))

    async def curves(self, request: Request) -> Response:
        """GET /api/runs/curves?of=RUN.STAGE&metric=NAME&x=step&low=&high=&log=1&parts=; `also` names metrics that will be asked for next"""
        return reply(await in_thread(self._curves, request))

    def _curves(self, request: Request) -> dict[str, Any]:
        metrics, axis = _metrics(request), _axis(request)
        low, high = (query(request, name, float, 0.0) if name in request.query_params else None for name in ("low", "high"))
        log_x = query(request, "log", int, 0) == 1
        found = self._find(request.query_params.getlist("of"))
        buckets = min(MAX_BUCKETS, max(2, query(request, "parts", int, buckets_for(len(found)))))
        curves = {}
        for key, (_, node) in found.items():
            columns = read_columns(node, self.context.store, self.reader, [*metrics, *_metrics(request, "also")])
            curves[key] = curve_reply(columns, metrics, axis, low=low, high=high, log_x=log_x, buckets=buckets)
        return {"x": axis, "sources": curves}

    async def csv(self, request: Request) -> Response:
        """GET /api/runs/curves.csv?of=RUN.STAGE&metric=NAME"""
        metrics = _metrics(request)
        if not metrics:
            raise Refusal(400, "metric: name at least one", code="invalid_query")
        found = await in_thread(self._find, request.query_params.getlist("of"))

        def lines() -> Iterator[bytes]:
            for number, (entry, node) in enumerate(found.values()):
                columns = read_columns(node, self.context.store, self.reader, metrics)
                pieces = csv_lines({(entry.name, node["id"]): columns}, metrics)
                if number:
                    next(pieces)  # the header stands already
                yield from pieces

        headers = {"content-disposition": 'attachment; filename="bloomery-curves.csv"'}
        return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)

    async def compare(self, request: Request) -> Response:
        """GET /api/runs/compare?run=RUN&run=RUN"""
        ids = list(dict.fromkeys(request.query_params.getlist("run")))
        if not 2 <= len(ids) <= MAX_COMPARED:
            raise Refusal(400, f"run: 2 to {MAX_COMPARED} runs can be compared; found {len(ids)}", code="invalid_query")
        entries = [await in_thread(self.context.directory.run, run_id) for run_id in ids]
        rows = await in_thread(differing_fields, [entry.spec["recipe"] for entry in entries])
        return reply({"runs": [{"id": entry.id, "name": entry.name} for entry in entries], "fields": rows})

    async def findings(self, request: Request) -> Response:
        """GET /api/runs/RUN/findings: what the doctor says of its trainings"""
        entry = await in_thread(self.context.directory.run, request.path_params["run"])
        return reply({"findings": await in_thread(self.doctor.findings, entry)})

    async def results(self, request: Request) -> Response:
        """GET /api/runs/RUN/results: samples of its trainings and tables of its evaluations"""
        entry = await in_thread(self.context.directory.run, request.path_params["run"])
        return reply(await in_thread(self._results, entry.spec["nodes"]))

    def _results(self, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        store = self.context.store
        samples = {node["id"]: found for node in nodes if (found := read_samples(node, store))}
        folders = {node["id"]: store.artifact_path(node["stage"], node["fingerprint"]) for node in nodes}
        scores = {node_id: tables for node_id, folder in folders.items() if (tables := read_scores(folder)) is not None}
        return {"samples": samples, "scores": scores}

    async def resume(self, request: Request) -> Response:
        """POST /api/runs/RUN/resume"""
        await read_body(request, Nothing)
        entry = await in_thread(self.context.directory.run, request.path_params["run"])
        return reply(await in_thread(self.resumer.resume, entry))

    async def stop(self, request: Request) -> Response:
        """POST /api/runs/RUN/stop"""
        await read_body(request, Nothing)
        entry = await in_thread(self.context.directory.run, request.path_params["run"])
        return reply(await in_thread(stop, entry, self.context.store))

    def _find(self, keys: Sequence[str]) -> Any:  # Any: what find_sources gives
        return find_sources(keys, {entry.id: entry for entry in self.context.directory.runs()})


def _metrics(request: Request, parameter: str = "metric") -> list[str]:
    metrics = list(dict.fromkeys(request.query_params.getlist(parameter)))
    if len(metrics) > MAX_METRICS or any(len(name) > MAX_NAME for name in metrics):
        raise Refusal(400, f"{parameter}: at most {MAX_METRICS} names at once; found {len(metrics)}", code="invalid_query")
    return metrics


def _axis(request: Request) -> Axis:
    name = request.query_params.get("x", "step")
    for axis in get_args(Axis):
        if name == axis:
            found: Axis = axis
            return found
    raise Refusal(400, f"x: expected one of {', '.join(get_args(Axis))}; found {name!r:.50}", code="invalid_query")
