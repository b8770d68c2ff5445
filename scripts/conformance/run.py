#!/usr/bin/env python3
"""Drives every operation of the OpenAPI document with schemathesis, against a server of its own.

Once open to everybody and once with a key. The server's data, its Postgres and the source that data streams fetch from
are made for it and thrown away afterwards. Ends with 1 when anything is not as the document says.

  EXAMPLES          how many requests each phase makes up for an operation (default: 15)
  SEED              of what is made up (default: 1)
  NEWCYCLE_BINARY   the server to test (default: target/debug/newcycle)
"""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv

import rows

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
EXAMPLES = os.environ.get("EXAMPLES", "15")
SEED = os.environ.get("SEED", "1")
# Longer than a first start takes on a slow machine: making a database cluster is most of it.
START_SECONDS = 120
# The server ends its streams and its Postgres in this time, or is killed.
STOP_SECONDS = 30
STREAM = {
    "name": "conformance",
    "interval_seconds": 3600,
    # Of the source's records one can be processed, and one becomes a dead letter.
    "transform": [{"cast": {"field": "amount", "to": "integer"}}],
}
RECORDS = [{"id": 1, "amount": "7"}, {"id": 2, "amount": "many"}]


def fail(message):
    sys.exit(f"conformance: {message}")


def schemathesis():
    """The program, in an environment of its own: made anew when another version is wanted."""
    requirements = HERE / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    environment = TARGET / "conformance" / "python"
    installed = environment / "installed"
    if not installed.is_file() or installed.read_text() != wanted:
        shutil.rmtree(environment, ignore_errors=True)
        venv.create(environment, with_pip=True)
        pip = [environment / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet"]
        if subprocess.run([*pip, "--requirement", requirements]).returncode:
            fail("schemathesis cannot be installed: is there a package index to be reached?")
        installed.write_text(wanted)
    return environment / "bin" / "schemathesis"


class Source(http.server.BaseHTTPRequestHandler):
    """What data streams fetch from: the same records, whatever is asked."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if "/crm/" in self.path:
            body = {"results": [{"id": "1", "properties": {}}]}
        elif "oauth" in self.path or "token" in self.path:
            body = {"access_token": "a", "token_type": "Bearer"}
        else:
            body = RECORDS
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def source():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/records"
    finally:
        server.shutdown()
        server.server_close()


def settings(data_dir, authentication):
    """The server's, whatever the caller's environment says."""
    ours = ("NEWCYCLE_", "PG", "AWS_", "SERVER_", "DASHBOARD_", "LOG_")
    # Where the programs of Postgres are stays as it is.
    is_ours = lambda name: name == "DATABASE_URL" or name.startswith(ours) and not name.startswith("NEWCYCLE_POSTGRES_")
    inherited = {name: value for name, value in os.environ.items() if not is_ours(name)}
    return inherited | {
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": "0",
        "NEWCYCLE_DATA_DIR": str(data_dir),
        "NEWCYCLE_AUTHENTICATION": authentication,
        # Nothing is fetched but from the source.
        "NEWCYCLE_STREAM_NETWORKS": "127.0.0.1",
        # Limits are not what is tested.
        "NEWCYCLE_MAX_EXPORTS": "1000000",
        "NEWCYCLE_MAX_EXPORTS_PER_KEY": "1000000",
    }


@contextlib.contextmanager
def serving(binary, data_dir, environment):
    log = data_dir / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen([binary, "serve"], env=environment, stdout=output, stderr=output)
    try:
        yield until_ready(server, binary, log)
        if server.poll() is not None:
            fail(f"the server ended by itself:\n{tail(log)}")
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # Even killed, it leaves no Postgres behind.
            server.kill()
            server.wait()


def until_ready(server, binary, log):
    """Where it is: on any free port, and it says on which."""
    until = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < until:
        url = re.search(r"dashboard +(http://[^ /]+)", log.read_text())
        if url and subprocess.run([binary, "ready", "--url", url[1]], capture_output=True).returncode == 0:
            return url[1]
        time.sleep(0.1)
    fail(f"the server did not become ready:\n{tail(log)}")


def tail(log):
    return "\n".join(log.read_text().splitlines()[-30:])


def call(url, method, path, body=None, key=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def prepare(url, source_url, key):
    """Makes what requests refer to: rows, a file, and a stream with a batch and a dead letter."""
    for operation, row in rows.ROWS.items():
        call(url, "POST", operation.removeprefix("POST "), row, key)
    # So many that lists have pages, and files the parts that are asked for.
    call(url, "POST", "/items", [{"base_item_id": rows.BASE_ITEM}] * 100, key)
    call(url, "POST", "/exports", {"dataset": "items", "format": "csv"}, key)
    stream = call(url, "POST", "/streams", STREAM | {"source": {"http": {"url": source_url}}, "desired": "running"}, key)
    until = time.monotonic() + START_SECONDS
    while not call(url, "GET", "/dead-letters", key=key)["data"]:
        if time.monotonic() > until:
            fail(f"the stream fetches nothing: {call(url, 'GET', '/streams/' + stream['id'], key=key)}")
        time.sleep(0.1)


def run(program, binary, authentication, source_url):
    print(f"\n== authentication: {authentication}", flush=True)
    with tempfile.TemporaryDirectory(prefix="newcycle-conformance-") as directory:
        data_dir = pathlib.Path(directory)
        environment = settings(data_dir, authentication)
        with serving(binary, data_dir, environment) as url:
            key = None
            options = []
            if authentication == "required":
                create = [binary, "keys", "create", "--name", "conformance", "--scopes", "admin"]
                made = subprocess.run(create, env=environment, capture_output=True, text=True, check=True)
                key = re.search(r"nck_\w+", made.stdout)[0]
                options = ["--header", f"Authorization: Bearer {key}"]
            else:
                # Everybody is let in, whoever they say they are.
                options = ["--exclude-checks", "ignored_auth"]
            prepare(url, source_url, key)
            reports = TARGET / "conformance" / authentication
            shutil.rmtree(reports, ignore_errors=True)
            reports.mkdir(parents=True)
            command = [program, "--config-file", HERE / "schemathesis.toml", "run", f"{url}/openapi.json", *options]
            command += ["--seed", SEED, "--max-examples", EXAMPLES, "--report-json-path", reports / "report.json"]
            known = {"PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "hooks", "CONFORMANCE_SOURCE": source_url}
            known |= {"CONFORMANCE_KEY": key} if key else {}
            # What it remembers of earlier runs would make this one another.
            status = subprocess.run(command, env=os.environ | known, cwd=reports).returncode
            log = (data_dir / "server.log").read_text()
        shutil.copy(data_dir / "server.log", reports / "server.log")
        if "panicked" in log:
            print(f"conformance: something panicked in the server: {reports / 'server.log'}", file=sys.stderr)
            status = 1
        return status


def main():
    binary = pathlib.Path(os.environ.get("NEWCYCLE_BINARY", TARGET / "debug" / "newcycle")).resolve()
    if not os.access(binary, os.X_OK):
        fail(f"there is no {binary}: run cargo build")
    program = schemathesis()
    modes = sys.argv[1:] or ["off", "required"]
    with source() as source_url:
        statuses = [run(program, binary, mode, source_url) for mode in modes]
    sys.exit(max(statuses))


if __name__ == "__main__":
    main()
