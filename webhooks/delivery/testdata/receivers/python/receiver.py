"""A receiver that verifies with the official library: 200 for a delivery that does,
401 for one that does not. RECEIVER_KEYS is a JSON object: for each path a secret.
It prints its port."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

KEYS = json.loads(os.environ["RECEIVER_KEYS"])


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = 200
        try:
            Webhook(KEYS[self.path[1:]]).verify(body, dict(self.headers))
        except WebhookVerificationError:
            status = 401
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
