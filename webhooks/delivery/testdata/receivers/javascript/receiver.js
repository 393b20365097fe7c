// A receiver that verifies with the official library: 200 for a delivery that does,
// 401 for one that does not. RECEIVER_KEYS is a JSON object: for each path a secret,
// or a JSON Web Key, with which Node's own crypto verifies the signatures v1a. It
// prints its port.
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const { Webhook, WebhookVerificationError } = require("standardwebhooks");

const keys = JSON.parse(process.env.RECEIVER_KEYS);

function verifyAsymmetric(jwk, body, headers) {
  const key = crypto.createPublicKey({ key: jwk, format: "jwk" });
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const good = headers["webhook-signature"].split(" ").some((signature) => {
    const [version, text] = signature.split(",");
    return version === "v1a" && crypto.verify(null, signed, key, Buffer.from(text, "base64"));
  });
  if (!good) {
    throw new WebhookVerificationError("No matching signature found");
  }
}

function verify(key, body, headers) {
  if (typeof key === "string") {
    new Webhook(key).verify(body, headers);
  } else {
    verifyAsymmetric(key, body, headers);
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    let status = 200;
    try {
      verify(keys[request.url.slice(1)], Buffer.concat(chunks), request.headers);
    } catch (error) {
      status = error instanceof WebhookVerificationError ? 401 : 500;
    }
    response.writeHead(status, { "content-length": 0 }).end();
  });
});
server.keepAliveTimeout = 0; // never closes a connection that is idle: tests on a busy machine pause
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
