// Node's fetch: `node client.mjs URL`

import { gzipSync } from "node:zlib";

const url = process.argv[2];
const json = { "Content-Type": "application/json" };

async function show(name, path, options) {
  const response = await fetch(url + path, options);
  console.log(name, response.status, (await response.text()).trim());
  return response;
}

const body = JSON.stringify({ query: "crème MILK" });
await show("sized", "/v1/label", { method: "POST", headers: json, body });
const stream = new ReadableStream({
  start(controller) {
    controller.enqueue(new TextEncoder().encode(body));
    controller.close();
  },
});
await show("chunked", "/v1/label", { method: "POST", headers: json, body: stream, duplex: "half" });
await show("gzip", "/v1/label", { method: "POST", headers: { ...json, "Content-Encoding": "gzip" }, body: gzipSync(body) });
await show("untyped", "/v1/label", { method: "POST", body: new TextEncoder().encode(body) });
await show("models", "/v1/models/toy");
await show("head", "/healthz", { method: "HEAD" });
await show("wrong", "/v1/label", { method: "POST", headers: json, body: "{}" });

const batch = await fetch(url + "/v1/label:batch", {
  method: "POST", headers: json, body: JSON.stringify({ queries: ["rice MILK", "oat milk", "tea"] }),
});
console.log("batch", batch.status, (await batch.text()).split("\n").filter((x) => x).map(JSON.parse).length);

const chat = await fetch(url + "/v1/chat/completions", {
  method: "POST", headers: json,
  body: JSON.stringify({
    model: "student", stream: true, stream_options: { include_usage: true },
    messages: [{ role: "user", content: "rice MILK" }],
  }),
});
let text = "";
for await (const part of chat.body.pipeThrough(new TextDecoderStream())) text += part;
const events = text.split("\n\n").filter((x) => x).map((x) => x.slice("data: ".length));
const chunks = events.slice(0, -1).map(JSON.parse);
console.log("stream", events.at(-1), chunks.map((c) => c.choices.length).join(), chunks.at(-1).usage.prompt_tokens > 0);
const answers = await Promise.all(
  [...Array(40).keys()].map((i) => fetch(url + "/v1/label", { method: "POST", headers: json, body: JSON.stringify({ query: `query ${i}` }) })),
);
console.log("parallel", [...new Set(answers.map((a) => a.status))].join());
