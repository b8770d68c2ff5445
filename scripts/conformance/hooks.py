"""What the OpenAPI document cannot say of requests that are to be accepted, so that all checks can stay on.

JSON Schema knows the form of a value. It does not know which rows there are, that `from` lies before `to`, or that a
moment lies in the past. Requests that are meant to be good are mended here before they are sent; those that are meant
to be bad are sent as they are.
"""

import itertools
import os
import re
from urllib.parse import urlsplit

import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation

import rows

SOURCE = os.environ["CONFORMANCE_SOURCE"]
KEY = os.environ.get("CONFORMANCE_KEY")

# References to rows: there is one of each.
REFERENCES = {"base_item_id": rows.BASE_ITEM, "item_id": rows.ITEM, "owner_id": rows.USER, "to": rows.USER}
# What has been numbered.
NUMBERS = itertools.count(1)
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# What each dataset of exports can be narrowed down by.
FILTERS = {
    "base-items": {"from", "to"},
    "users": {"from", "to"},
    "items": {"from", "to", "base_item_id"},
    "transfers": {"from", "to", "base_item_id"},
    "ownership": {"to", "base_item_id"},
    "statistics": {"from", "to", "base_item_id", "resolution", "timezone"},
}


@schemathesis.hook
def before_call(context, case, kwargs):
    components = case.meta.components if case.meta else {}

    def is_good(location):
        return location not in components or components[location].mode == GenerationMode.POSITIVE

    operation = case.operation.label
    metric = case.path_parameters.get("metric")
    if isinstance(case.query, dict):
        if is_good(ParameterLocation.QUERY):
            mend_query(case.query, operation, metric)
        if not is_good(ParameterLocation.BODY):
            # Rows that are skipped are an answer, not a refusal.
            case.query.pop("skip_rejected", None)
    if operation == "GET /statistics/{metric}/breakdown" and metric == "user-creation":
        case.path_parameters["metric"] = "transfers"
    if is_good(ParameterLocation.BODY):
        mend_body(case, operation)


def mend_body(case, operation):
    if case.media_type == "application/x-ndjson":
        # The document says that it is a text.
        case.body = rows.lines(operation)
    elif operation == "POST /session":
        if KEY and isinstance(case.body, dict):
            case.body["key"] = KEY
    elif operation == "POST /exports":
        mend_export(case.body)
    elif operation in ("POST /streams", "POST /streams/preview", "PATCH /streams/{id}"):
        mend_stream(case.body, operation)
    else:
        refer(case.body)


def mend_query(query, operation, metric):
    # Only the server makes tokens; one is as good as another.
    if "page_token" in query:
        query["page_token"] = rows.RECORD_TOKEN if operation == "GET /streams/{id}/data" else rows.PAGE_TOKEN
    if "batch" in query:
        query["batch"] = "latest"
    if "timezone" in query:
        query["timezone"] = "Europe/Berlin"
    refer(query, ("base_item_id",))
    if metric == "user-creation":
        # Users are of no base item.
        query.pop("base_item_id", None)
    order(query)
    if operation == "GET /statistics/stream":
        metrics = query.get("metrics")
        if isinstance(metrics, list):
            # None may be there twice.
            metrics = query["metrics"] = list(dict.fromkeys(metrics))
        if "base_item_id" in query and (not metrics or "user-creation" in metrics):
            del query["base_item_id"]
        # Either both or none, and not too many buckets.
        if query.get("from") or query.get("to"):
            query["from"], query["to"] = rows.BEFORE, rows.SHORTLY_AFTER


def order(value):
    """Has a range begin before it ends."""
    if value.get("from") and value.get("to") and value["from"] >= value["to"]:
        value["from"], value["to"] = rows.BEFORE, rows.AFTER


def refer(value, names=tuple(REFERENCES)):
    """Replaces ids of rows that are not there."""
    for row in value if isinstance(value, list) else [value]:
        if isinstance(row, dict):
            for name in ("created_at", "timestamp"):
                # What happens is written down afterwards, not before.
                if isinstance(row.get(name), str) and not "0001" <= row[name] < rows.AFTER:
                    row[name] = rows.AFTER
            for name in names:
                if isinstance(row.get(name), str) and UUID.fullmatch(row[name]):
                    row[name] = REFERENCES[name]


def mend_export(export):
    if not isinstance(export, dict):
        return
    for name in FILTERS["statistics"] - FILTERS.get(export.get("dataset"), set()):
        export.pop(name, None)
    if export.get("timezone") is not None:
        export["timezone"] = "Europe/Berlin"
    refer(export, ("base_item_id",))
    order(export)


def mend_stream(stream, operation):
    if not isinstance(stream, dict):
        return
    stream.update(storable(stream))
    if operation == "POST /streams" and isinstance(stream.get("name"), str):
        # No two streams have the same.
        stream["name"] = f"{next(NUMBERS)} {stream['name']}"[:100]
    if isinstance(stream.get("interval_seconds"), int):
        # Hundreds of them that run each second would be a test of something else.
        stream["interval_seconds"] = max(stream["interval_seconds"], 60)
    visit(stream)
    if stream.get("cron") is not None:
        stream["cron"] = "*/15 8-18 * * MON-FRI"
        stream.pop("interval_seconds", None)
    if stream.get("timezone") is not None:
        stream["timezone"] = "Europe/Berlin"
    if operation == "POST /streams/preview":
        stream.pop("stream_id", None)
        if stream.get("source") is None:
            stream["sample"] = stream.get("sample") or [{"id": 1}]


def storable(value):
    """The same without NUL, which Postgres has not, and with whole numbers as such: JSON Schema takes 7.0 for one."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [storable(element) for element in value]
    if isinstance(value, dict):
        return {storable(name): storable(element) for name, element in value.items()}
    return value


def visit(value):
    """Mends what lies deeper in a stream."""
    if isinstance(value, list):
        for element in value:
            visit(element)
    if not isinstance(value, dict):
        return
    # Sources are elsewhere: this one is ours.
    for name in ("url", "token_url", "base_url"):
        if isinstance(value.get(name), str) and urlsplit(value[name]).scheme:
            value[name] = SOURCE + ("/token" if name == "token_url" else "")
    if "url" in value:
        value["records"] = ""
        value["method"] = "GET" if value.get("body") is None else "POST"
        # What may be in a header is not in the document, and secrets may not be there.
        if value.get("headers"):
            value["headers"] = {"accept-language": "de"}
    if "object" in value:
        value["base_url"] = SOURCE
        value["auth"] = {"bearer": {"token": "a"}}
    if isinstance(value.get("filter"), dict):
        value["filter"] = {"field": value["filter"]["field"], "exists": True}
    if isinstance(value.get("template"), str):
        value["template"] = "{id} {name?}"
    if isinstance(value.get("key"), dict):
        # Either of the two.
        value["key"]["header"] = None if value["key"].get("parameter") else "x-key"
    if isinstance(value.get("ledger"), dict):
        # A transfer is of an item and to a user, an item is of a base item.
        for name in ("base_item", "user", "item"):
            value["ledger"][name] = value["ledger"].get(name) or {"key": "id"}
    for name in ("at", "from"):
        # All of an answer is no cursor.
        if value.get(name) == "":
            value[name] = "next"
    for element in value.values():
        visit(element)
