// The official client for Node against a running daemon: node openai_node.mjs BASE_URL. Throws at the first surprise.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "The quick brown fox" }];

const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
assert(ids.includes("toy:latest"));
assert.equal((await client.models.retrieve("toy")).object, "model");

const body = { model: "toy", prompt: "The quick", max_tokens: 9, temperature: 0 };
const whole = await client.completions.create(body);
assert.equal(whole.usage.completion_tokens, 9);
let text = "";
for await (const chunk of await client.completions.create({ ...body, stream: true })) text += chunk.choices[0].text;
assert.equal(text, whole.choices[0].text);

const chat = { model: "toy", messages, max_completion_tokens: 7, temperature: 0 };
const answer = await client.chat.completions.create(chat);
assert.equal(answer.choices[0].message.role, "assistant");
let said = "";
let usage = null;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...chat, ...options })) {
  said += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(said, answer.choices[0].message.content);
assert.equal(usage.total_tokens, answer.usage.total_tokens);
assert.equal(usage.completion_tokens, answer.usage.completion_tokens);

const helper = client.chat.completions.stream(chat);
assert.equal((await helper.finalMessage()).content, answer.choices[0].message.content);

const vectors = await client.embeddings.create({ model: "emb", input: ["quick", "lazy dog"] });
assert.equal(vectors.data.length, 2);
assert(Math.abs(Math.hypot(...vectors.data[0].embedding) - 1) < 1e-5);

await assert.rejects(client.chat.completions.create({ ...chat, temperature: 9 }), (error) => {
  assert(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "temperature");
  return true;
});
await assert.rejects(client.models.retrieve("org/none"), OpenAI.NotFoundError);

const leaving = await client.completions.create({ ...body, max_tokens: 400, ignore_eos: true, stream: true });
for await (const chunk of leaving) if (chunk) break; // the iterator's end aborts the request
console.log("ok");
