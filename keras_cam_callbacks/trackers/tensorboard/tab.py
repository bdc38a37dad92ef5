"""The tab "Heatmaps" of TensorBoard: the report's page, of the records below the log folder, while runs are trained."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib import import_module
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from .folders import Record, Records, log_folders

if TYPE_CHECKING:
    from keras_cam_callbacks.comparison.live import LiveRuns

__all__ = ["HeatmapsPlugin"]

_AT_FIRST = 4  # runs that are shown where none is chosen
_MOST = 12  # runs that are shown at once
_MOST_LISTED = 500
_MOST_KEPT = 4  # choices of runs whose numbers stay in memory
_SECONDS, _FIRST = 0.4, 0.1  # that epochs are read for one answer, and for the page itself
_MOST_MAPS = 400  # in one answer
_ENTRY = """export function render() {
  let choice = "";
  try {
    choice = sessionStorage.getItem("keras_cam_callbacks") ?? "";
  } catch {
    // Then the page begins with the newest runs.
  }
  window.location.replace(new URL(`page${choice}`, import.meta.url));
}
"""

Answer = Callable[..., wrappers.Response]


class HeatmapsPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types.
    """A tab that shows runs side by side, with a slider over the epochs.

    It is there once this package is installed, and active where a record lies below the log folder. It serves only
    these, and what is read of them is what `store.read_run` reads: whole epochs.

    Args:
        context: TensorBoard's, with the flags that it was started with.
    """

    plugin_name = "keras_cam_callbacks"

    def __init__(self, context: Any) -> None:
        self._records = Records(log_folders(context.flags))
        self._kept: OrderedDict[tuple[tuple[str, ...], str], LiveRuns] = OrderedDict()
        self._lock = Lock()
        self._is_warm = False
        self._records.latest()

    def is_active(self) -> bool:
        """Tells whether there is a record, by the last search: it waits for nothing."""
        is_active = bool(self._records.latest())
        if is_active and not self._is_warm:
            # What reads records takes a moment to load, and is asked for next.
            self._is_warm = True
            Thread(target=import_module, args=("keras_cam_callbacks.comparison.live",), daemon=True).start()
        return is_active

    def frontend_metadata(self) -> Any:
        """Says how the tab is called, and where it begins."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Heatmaps")

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns what answers which address."""
        return {
            "/index.js": _app(lambda request: _answer(request, _ENTRY, "application/javascript")),
            "/page": _app(self._page),
            "/page.js": _app(lambda request: _answer(request, _script(True), "application/javascript")),
            "/runs.js": _app(lambda request: _answer(request, _script(False), "application/javascript")),
            "/page.css": _app(lambda request: _answer(request, _style(), "text/css")),
            "/plotly.js": _app(_plotly),
            "/data": _app(self._data),
            "/maps": _app(self._maps),
            "/picture/*": _app(self._picture),
        }

    # ---- Runs

    def _choice(self, request: wrappers.Request) -> tuple[tuple[Record, ...], str]:
        """The runs that are asked for and are there; where none is asked for, the newest that show the same images."""
        records = self._records.wait()
        asked = dict.fromkeys(request.args.getlist("run"))
        if asked:
            return tuple(records[ident] for ident in asked if ident in records), request.args.get("view", "")
        written = [record for record in records.values() if record.written]
        alike = [record for record in written if record.samples & written[0].samples]
        return tuple(sorted(alike[:_AT_FIRST], key=lambda record: record.name)), ""

    def _opened(self, request: wrappers.Request) -> LiveRuns:
        """Returns the runs that are asked for; raises ValueError or OSError where they can't be shown."""
        from keras_cam_callbacks.comparison.live import LiveRuns

        records, view = self._choice(request)
        # A run that is gone is shown as it was read.
        key = (tuple(dict.fromkeys(request.args.getlist("run"))) or tuple(record.ident for record in records), view)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if not records:
            raise ValueError(
                "None of these runs is there any more." if key[0] else "No run below the log folder has an epoch yet."
            )
        if len(records) > _MOST:
            raise ValueError(f"At most {_MOST} runs are shown at once. Received: {len(records)}.")
        runs = LiveRuns([record.folder for record in records], view)
        with self._lock:
            self._kept[key] = runs
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return runs

    def _drop(self, runs: LiveRuns) -> None:
        with self._lock:
            for key in [key for key, kept in self._kept.items() if kept is runs]:
                del self._kept[key]

    def _ask(self, request: wrappers.Request, question: Callable[[LiveRuns], Any]) -> Any:
        """Asks the chosen runs, opened anew where one is another run than before."""
        from keras_cam_callbacks.comparison.live import StaleError

        runs = self._opened(request)
        try:
            return question(runs)
        except StaleError:
            self._drop(runs)
            return question(self._opened(request))

    def _listed(self, request: wrappers.Request) -> dict[str, Any]:
        records, now = self._records.latest(), time.time()
        shown, view = self._choice(request)
        idents = [record.ident for record in shown]
        asked = list(dict.fromkeys(request.args.getlist("run"))) or idents
        order = [*shown, *(record for record in records.values() if record.ident not in idents)]
        return {
            "runs": [
                {"ident": record.ident, "name": _printable(record.name), "about": _age(now, record.written)}
                for record in order[:_MOST_LISTED]
            ],
            "shown": idents,
            "query": urlencode([*(("run", ident) for ident in asked), ("view", view)]),
            "count": len(records),
            "most": _MOST,
            "plotly": _charts() is not None,
        }

    # ---- Answers

    def _page(self, request: wrappers.Request) -> wrappers.Response:
        from keras_cam_callbacks.comparison.live import message_page

        live = self._listed(request)
        try:
            page = self._ask(request, lambda runs: runs.page(live, _FIRST))
        except (ValueError, OSError, ImportError) as error:
            page = message_page(str(error), live)
        # Names of files may hold what UTF-8 does not know.
        return _answer(request, page.encode("utf-8", "replace"), "text/html")

    def _data(self, request: wrappers.Request) -> wrappers.Response:
        since = request.args.get("since", 0, type=int)
        try:
            news = self._ask(request, lambda runs: runs.news(since, _SECONDS))
        except (ValueError, OSError, ImportError) as error:
            return _answer(request, {"message": str(error)}, "application/json")
        return _answer(request, {**news, "count": len(self._records.latest())}, "application/json")

    def _maps(self, request: wrappers.Request) -> wrappers.Response:
        try:
            pairs = [pair.partition(":") for pair in request.args.get("maps", "").split(",")]
            wanted = [(int(run), int(step)) for run, _, step in pairs if run.isdecimal() and step.isdecimal()]
            maps = self._ask(request, lambda runs: runs.maps(wanted[:_MOST_MAPS]))
        except (ValueError, OSError):
            maps = {}
        return _answer(request, maps, "application/json")

    def _picture(self, request: wrappers.Request) -> wrappers.Response:
        sample, _, part = request.path.partition("/picture/")[2].partition("/")
        try:
            place = int(sample) if sample.isdecimal() else -1
            source = self._ask(request, lambda runs: runs.picture(place, part))
        except (ValueError, OSError):
            source = None
        if source is None:
            return _answer(request, "There is no such picture.", "text/plain", code=404)
        kind, _, data = source.removeprefix("data:").partition(";base64,")
        return _answer(request, base64.b64decode(data), kind)


def _app(handler: Answer) -> Any:
    @wrappers.Request.application
    def app(request: wrappers.Request) -> wrappers.Response:
        return handler(request)

    return app


def _answer(request: wrappers.Request, content: Any, kind: str, **settings: Any) -> wrappers.Response:
    """Answers as TensorBoard's own tabs do, with its policy of what a page may load."""
    response: wrappers.Response = http_util.Respond(request, content, kind, **settings)
    return response


@cache
def _script(whole: bool) -> str:
    from keras_cam_callbacks.comparison.page import resource, scripts

    return scripts(live=True) if whole else resource("report_runs.js")


def _style() -> str:
    from keras_cam_callbacks.comparison.page import resource

    return resource("report.css")


@cache
def _charts() -> str | None:
    """Plotly's script; None where plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    charts: str = get_plotlyjs()
    return charts


def _plotly(request: wrappers.Request) -> wrappers.Response:
    charts = _charts()
    if charts is None:
        return _answer(request, "plotly is not installed.", "text/plain", code=404)
    return _answer(request, charts, "application/javascript", expires=3600)


def _printable(name: str) -> str:
    from keras_cam_callbacks.comparison.alignment import printable

    return printable(name)


def _age(now: float, written: float) -> str:
    if not written:
        return "no epoch yet"
    seconds = max(0.0, now - written)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size or unit == "second":
            count = int(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return ""
