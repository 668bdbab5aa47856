// What goes over the wire: bodies of OpenAI's chat completions, written and read. Nothing that comes is trusted to have its shape.
import type { Message, Settings } from "./types";

export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** One piece of a streamed answer. */
export interface Piece {
  content?: string;
  reasoning?: string;
  calls?: { index: number; id?: string; name?: string; arguments?: string }[];
  finish?: string;
  completion_tokens?: number;
}

export interface ChatRequest {
  model: string | null;
  settings: Settings;
  messages: Message[];
}

/** What is wrong with the text of the setting `tools`, or "". */
export function toolsProblem(text: string): string {
  if (!text.trim()) return "";
  try {
    const tools: unknown = JSON.parse(text);
    const fine = Array.isArray(tools) && tools.every((tool) => typeof (tool as { function?: { name?: unknown } } | null)?.function?.name === "string");
    return fine ? "" : 'Expected a list like [{"type": "function", "function": {"name": …, "parameters": …}}].';
  } catch {
    return "This is not JSON yet.";
  }
}

type Wire = Record<string, unknown>;

/** The body of POST /v1/chat/completions. Settings that are not set are not sent. */
export function requestBody({ model, settings, messages }: ChatRequest): Wire {
  const { system, tools, ...sampling } = settings;
  const body: Wire = { stream: true, stream_options: { include_usage: true } };
  if (model) body.model = model;
  for (const [name, value] of Object.entries(sampling)) if (value !== null) body[name] = value;
  if (tools.trim() && !toolsProblem(tools)) body.tools = JSON.parse(tools) as unknown;
  body.messages = system.trim() ? [{ role: "system", content: system }, ...toWire(messages)] : toWire(messages);
  return body;
}

/** Chat templates want turns that alternate and calls that have results; a conversation that was stopped may lack both. */
function toWire(messages: Message[]): Wire[] {
  const wire: Wire[] = [];
  const answered = new Set(messages.map((message) => message.call_id));
  for (const { role, content, calls, call_id } of messages) {
    const last = wire.at(-1);
    if (role === "tool") wire.push({ role, content, tool_call_id: call_id });
    else if (role === "user" && last?.role === "user") wire[wire.length - 1] = { role, content: `${String(last.content)}\n\n${content}` };
    else if (calls?.length) {
      const tool_calls = calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
      wire.push({ role, content: content || null, tool_calls });
      for (const { id } of calls) if (!answered.has(id)) wire.push({ role: "tool", content: "No result was given.", tool_call_id: id });
    } else if (role === "user" || content) wire.push({ role, content });
  }
  return wire;
}

const text = (value: unknown): string | undefined => (typeof value === "string" && value ? value : undefined);

export function toPiece(body: unknown): Piece {
  const piece: Piece = {};
  const tokens = field(field(body, "usage"), "completion_tokens");
  if (typeof tokens === "number") piece.completion_tokens = tokens;
  const choices = field(body, "choices");
  const choice: unknown = Array.isArray(choices) ? choices[0] : undefined;
  const delta = field(choice, "delta");
  const content = text(field(delta, "content"));
  const reasoning = text(field(delta, "reasoning_content")) ?? text(field(delta, "reasoning"));
  const finish = text(field(choice, "finish_reason"));
  if (content !== undefined) piece.content = content;
  if (reasoning !== undefined) piece.reasoning = reasoning;
  if (finish !== undefined) piece.finish = finish;
  const calls = field(delta, "tool_calls");
  if (Array.isArray(calls)) {
    piece.calls = calls.slice(0, 64).map((call: unknown, position) => {
      const index = field(call, "index");
      const [id, name, args] = [field(call, "id"), field(field(call, "function"), "name"), field(field(call, "function"), "arguments")];
      return {
        index: typeof index === "number" ? index : position,
        ...(typeof id === "string" && { id }),
        ...(typeof name === "string" && { name }),
        ...(typeof args === "string" && { arguments: args }),
      };
    });
  }
  return piece;
}
