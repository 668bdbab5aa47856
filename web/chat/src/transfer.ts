// Conversations as files: JSON holds everything, Markdown what was said; both can be read back. A file is never trusted.
import { DEFAULTS, newId, type Conversation, type Message, type Settings, type ToolCall } from "./types";

const FORMAT = "ingle-conversations";
const LIMIT_BYTES = 64 * 2 ** 20;
const NAMES = { user: "You", assistant: "Answer", tool: "Result of a tool", system: "System prompt" } as const;
const MARK = /^<!-- ingle: (user|assistant|tool|system) -->$/;

export function toJson(conversations: Conversation[]): string {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/** Each message after a comment that names its role; a line of a message that looks like one gets a backslash. */
export function toMarkdown({ title, settings, messages }: Conversation): string {
  const section = (role: keyof typeof NAMES, text: string): string =>
    `<!-- ingle: ${role} -->\n## ${NAMES[role]}\n\n${text.replace(/^\\*<!-- ingle:/gm, "\\$&").trim()}\n`;
  const parts = [`# ${title.replace(/\s+/g, " ")}\n`];
  if (settings.system.trim()) parts.push(section("system", settings.system));
  for (const { role, content, calls } of messages) {
    const called = (calls ?? []).map((call) => `\n\n\`\`\`json\n${JSON.stringify({ name: call.name, arguments: call.arguments })}\n\`\`\``);
    parts.push(section(role, content + called.join("")));
  }
  return parts.join("\n");
}

export function fileName(title: string, ending: string): string {
  const name = title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${name || "conversation"}.${ending}`;
}

export function download(name: string, text: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The conversations of a file, under new ids. Throws an Error whose message is for people. */
export async function read(file: File): Promise<Conversation[]> {
  if (file.size > LIMIT_BYTES) throw new Error("The file is larger than 64 MiB; that is no conversation.");
  const text = await file.text();
  const found = text.trimStart().startsWith("{") ? fromJson(text) : fromMarkdown(text);
  if (!found.length) throw new Error("No conversation was found in the file. It reads JSON and Markdown files that this page exported.");
  return found;
}

export function fromJson(text: string): Conversation[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON: it may be cut off.");
  }
  const { format, conversations } = record(body);
  if (format !== FORMAT || !Array.isArray(conversations)) throw new Error(`The file is not a conversation of this page: its "format" is not "${FORMAT}".`);
  return conversations.map(toConversation);
}

export function fromMarkdown(text: string): Conversation[] {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const sections: { role: keyof typeof NAMES; lines: string[] }[] = [];
  for (const line of lines) {
    const mark = MARK.exec(line);
    if (mark) sections.push({ role: mark[1] as keyof typeof NAMES, lines: [] });
    else sections.at(-1)?.lines.push(line);
  }
  if (!sections.length) return [];
  const texts = sections.map(({ role, lines: own }) => ({
    role,
    content: (own[0] === `## ${NAMES[role]}` ? own.slice(1) : own).join("\n").replace(/^\\(\\*<!-- ingle:)/gm, "$1").trim(),
  }));
  // results of tools need the ids of their calls, which only the JSON file holds
  const messages = texts.filter(({ role }) => role === "user" || role === "assistant").map((part) => ({ ...part, id: newId() }) as Message);
  const system = texts.find((part) => part.role === "system")?.content ?? "";
  const title = /^# (.+)$/.exec(lines[0] ?? "")?.[1];
  return [toConversation({ title, settings: { system }, messages })];
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
const string = (value: unknown, otherwise = ""): string => (typeof value === "string" ? value : otherwise);
const number = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) ? value : null);

export function toSettings(value: unknown): Settings {
  const raw = record(value);
  return {
    system: string(raw.system, DEFAULTS.system),
    temperature: number(raw.temperature),
    top_p: number(raw.top_p),
    min_p: number(raw.min_p),
    max_tokens: number(raw.max_tokens),
    seed: number(raw.seed),
    tools: string(raw.tools),
  };
}

function toConversation(value: unknown): Conversation {
  const raw = record(value);
  const now = Date.now();
  return {
    id: newId(), // never over a conversation that is there
    title: string(raw.title, "Imported conversation").slice(0, 200) || "Imported conversation",
    created_ms: number(raw.created_ms) ?? now,
    updated_ms: number(raw.updated_ms) ?? now,
    settings: toSettings(raw.settings),
    messages: Array.isArray(raw.messages) ? raw.messages.flatMap(toMessage) : [],
  };
}

function toMessage(value: unknown): Message[] {
  const raw = record(value);
  const role = raw.role;
  if (role !== "user" && role !== "assistant" && role !== "tool") return [];
  const message: Message = { id: newId(), role, content: string(raw.content) };
  for (const name of ["reasoning", "call_id", "model", "error"] as const) if (typeof raw[name] === "string") message[name] = raw[name];
  if (raw.ended === "stopped" || raw.ended === "length") message.ended = raw.ended;
  if (Array.isArray(raw.calls)) message.calls = raw.calls.map(toCall);
  const [ttft_ms, tokens, tokens_per_s] = ["ttft_ms", "tokens", "tokens_per_s"].map((name) => number(record(raw.timing)[name]));
  if (ttft_ms != null && tokens != null && tokens_per_s != null) message.timing = { ttft_ms, tokens, tokens_per_s };
  return [message];
}

function toCall(value: unknown): ToolCall {
  const raw = record(value);
  return { id: string(raw.id) || newId(), name: string(raw.name, "?"), arguments: string(raw.arguments, "{}") };
}
