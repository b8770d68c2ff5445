"""The rows that are there when the requests come."""

import base64
import json
import uuid
from datetime import datetime, timedelta, timezone

BASE_ITEM = "01a00000-0000-7000-8000-000000000001"
ITEM = "01a00000-0000-7000-8000-000000000002"
USER = "01a00000-0000-7000-8000-000000000003"
TRANSFER = "01a00000-0000-7000-8000-000000000004"

BEFORE = "2001-01-01T00:00:00Z"
SHORTLY_AFTER = "2001-01-01T00:00:01Z"
AFTER = "2020-01-01T00:00:00Z"
# Of a row that need not be there (src/ledger/page.rs): a moment in microseconds, and an id.
_MICROS = (datetime(2025, 1, 1, tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
PAGE_TOKEN = base64.urlsafe_b64encode(_MICROS.to_bytes(8, "big") + uuid.UUID(ITEM).bytes).decode().rstrip("=")
# Of the first batch of a stream, and a key (src/http/streams.rs).
RECORD_TOKEN = base64.urlsafe_b64encode(b"1:0").decode().rstrip("=")

ROWS = {
    "POST /base-items": {"id": BASE_ITEM, "description": "a bicycle", "created_at": BEFORE},
    "POST /users": {"id": USER, "created_at": BEFORE},
    "POST /items": {"id": ITEM, "base_item_id": BASE_ITEM, "created_at": BEFORE},
    "POST /transfers": {"id": TRANSFER, "item_id": ITEM, "owner_id": USER, "timestamp": AFTER},
}


def lines(operation):
    """The same rows, as NDJSON."""
    return json.dumps(ROWS[operation]) + "\n"
