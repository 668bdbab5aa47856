// Talks to the server at the address given, as programs for Node do; prints one line of JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const options = { model: "tiny", messages, max_tokens: 12, seed: 5 };

const whole = await client.chat.completions.create(options);
const streamed = { text: "", chunks: 0, finish: null, usage: null };
for await (const chunk of await client.chat.completions.create({
  ...options,
  stream: true,
  stream_options: { include_usage: true },
})) {
  streamed.text += chunk.choices[0]?.delta.content ?? "";
  streamed.finish = chunk.choices[0]?.finish_reason ?? streamed.finish;
  streamed.usage = chunk.usage ?? streamed.usage;
  streamed.chunks += 1;
}
const tools = [
  {
    type: "function",
    function: {
      name: "set_alarm",
      parameters: { type: "object", properties: { time: { type: "string" } }, required: ["time"] },
    },
  },
];
const called = await client.chat.completions.create({
  model: "tiny",
  messages: [{ role: "user", content: "wake me at six" }],
  tools,
  tool_choice: "required",
});
const response = await client.responses.create({ model: "tiny", input: "hello", max_output_tokens: 16 });
const embedded = await client.embeddings.create({ model: "tiny", input: "hello" });
let refused = null;
try {
  await client.chat.completions.create({ ...options, temperature: 9 });
} catch (error) {
  refused = { status: error.status, param: error.param, isBadRequest: error instanceof OpenAI.BadRequestError };
}
console.log(
  JSON.stringify({
    text: whole.choices[0].message.content,
    streamed,
    call: called.choices[0].message.tool_calls[0].function.name,
    response: response.output_text,
    embedded: embedded.data[0].embedding.length,
    refused,
  }),
);
