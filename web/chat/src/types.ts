// What a conversation is. The same shapes lie in IndexedDB and in exported files.

/** null: not sent, the server's own default holds. */
export interface Settings {
  system: string;
  temperature: number | null;
  top_p: number | null;
  min_p: number | null;
  max_tokens: number | null;
  seed: number | null;
  /** OpenAI's `tools`, as JSON text; "" for none. */
  tools: string;
}

export const DEFAULTS: Settings = { system: "", temperature: null, top_p: null, min_p: null, max_tokens: null, seed: null, tools: "" };

export interface ToolCall {
  id: string;
  name: string;
  /** JSON text, as the model wrote it. */
  arguments: string;
}

/** What an answer took, measured in this page. */
export interface Timing {
  ttft_ms: number;
  tokens: number;
  tokens_per_s: number;
}

export interface Message {
  id: string;
  role: "user" | "assistant" | "tool";
  content: string;
  reasoning?: string;
  calls?: ToolCall[];
  /** Of role "tool": the call that this is the result of. */
  call_id?: string;
  model?: string;
  timing?: Timing;
  /** Why the answer is not whole: the person stopped it, it ran into max_tokens, or an error in one sentence. */
  ended?: "stopped" | "length";
  error?: string;
}

export interface Conversation {
  id: string;
  title: string;
  created_ms: number;
  updated_ms: number;
  settings: Settings;
  messages: Message[];
}

/** Of an answer that is being written. */
export interface Live {
  phase: "waiting" | "answering";
  started_ms: number;
  ttft_ms: number | null;
  tokens: number;
  tokens_per_s: number | null;
}

export interface Health {
  model: string | null;
  memory_bytes: number | null;
}

// crypto.randomUUID exists in secure contexts only, and a page over plain HTTP in a home network is none.
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
