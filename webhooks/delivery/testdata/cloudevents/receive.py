"""A receiver of CloudEvents batches, by the Python SDK.

Prints the port that it listens on, and then a line of JSON for each event that comes.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            if self.headers["content-type"] != "application/cloudevents-batch+json":
                raise ValueError("the content type is " + self.headers["content-type"])
            # The SDK has no batches: each element is an event in structured mode.
            for text in json.loads(body):
                message = HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=json.dumps(text).encode())
                print(json.dumps(shown(from_structured(message, JSONFormat(), CloudEvent))), flush=True)
            status = 200
        except Exception as e:  # a failed test says why
            print(json.dumps({"error": repr(e)}), flush=True)
            status = 500
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def shown(event):
    data = event.get_data()
    return {
        "attributes": {k: v if isinstance(v, str) else v.isoformat() for k, v in event.get_attributes().items()},
        "data": data if not isinstance(data, bytes) else None,
        "bytes": base64.b64encode(data).decode() if isinstance(data, bytes) else None,
    }


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
