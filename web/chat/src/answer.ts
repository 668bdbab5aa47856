// Asking and answering: send, stop, regenerate, edit.
import * as api from "./api";
import { announcer } from "./announce";
import { change, changeMessage, conversationOf, ensureCurrent, setMessages } from "./conversations";
import { currentOf, getState, toast, update } from "./store";
import type { Piece } from "./wire";
import { newId, type Live, type Message, type ToolCall } from "./types";

const SHOW_EVERY_MS = 50; // the device that computes the answer may be the one that shows it: leave it time
const SHORTEST_S = 0.02; // what came in one piece has no rate
const WANTS_KEY = "This server asks for an API key.";
const running = new Map<string, AbortController>();

export function send(text: string): void {
  if (!text.trim()) return;
  const { id, messages } = ensureCurrent(text);
  if (running.has(id)) return;
  setMessages(id, [...withoutFailure(messages), { id: newId(), role: "user", content: text }]);
  void answer(id);
}

/** Ends the answer of this conversation, and keeps what came. */
export function stop(id: string | null): void {
  if (id) running.get(id)?.abort();
}

/** A new answer in place of this one. What came after it goes too, and comes back with Undo. */
export function regenerate(id: string, messageId: string): void {
  replaceFrom(id, messageId, []);
}

export function edit(id: string, messageId: string, content: string): void {
  if (content.trim()) replaceFrom(id, messageId, [{ id: newId(), role: "user", content }]);
}

export function giveResults(id: string, results: { call_id: string; content: string }[]): void {
  const conversation = conversationOf(id);
  if (!conversation || running.has(id)) return;
  setMessages(id, [...conversation.messages, ...results.map((result) => ({ id: newId(), role: "tool" as const, ...result }))]);
  void answer(id);
}

function replaceFrom(id: string, messageId: string, replacement: Message[]): void {
  const before = conversationOf(id)?.messages;
  const at = before?.findIndex((message) => message.id === messageId) ?? -1;
  if (!before || at < 0) return;
  stop(id);
  setMessages(id, [...withoutFailure(before.slice(0, at)), ...replacement]);
  if (before.length - at > 2) {
    toast("What came after was removed.", () => {
      stop(id);
      setMessages(id, before);
    });
  }
  void answer(id);
}

/** Asks again where the server wanted a key, and the person has given one. */
export function resumeRefused(): void {
  const conversation = currentOf(getState());
  const last = conversation?.messages.at(-1);
  if (conversation && last?.role === "assistant" && last.error === WANTS_KEY) regenerate(conversation.id, last.id);
}

/** An answer that is only an error is not part of the conversation. */
const withoutFailure = (messages: Message[]): Message[] =>
  messages.filter((m) => m.role !== "assistant" || m.content || m.reasoning || m.calls?.length);

async function answer(id: string): Promise<void> {
  const conversation = conversationOf(id);
  if (!conversation) return;
  const control = new AbortController();
  running.set(id, control);
  const { model } = getState();
  const { settings, messages } = conversation;
  const message: Message = { id: newId(), role: "assistant", content: "", ...(model && { model }) };
  const writer = new Writer(id, message);
  setMessages(id, [...messages, { ...message }]);
  try {
    for await (const piece of api.chat({ model, settings, messages }, control.signal)) writer.take(piece);
    writer.end({});
  } catch (error) {
    if (control.signal.aborted) writer.end({ ended: "stopped" });
    else if (error instanceof api.ApiError && error.status === 401) {
      writer.end({ error: WANTS_KEY });
      update({ dialog: "key", keyRefused: api.hasKey() });
    } else writer.end({ error: error instanceof api.ApiError ? error.message : "The server sent something that is no answer." });
  } finally {
    if (running.get(id) === control) {
      running.delete(id);
      const { [id]: _ended, ...live } = getState().live;
      update({ live });
    }
    void refreshHealth();
  }
}

export async function refreshHealth(): Promise<void> {
  update({ health: await api.health().catch(() => null) });
}

/** Collects the pieces of one answer, measures, and shows it a few times a second. */
class Writer {
  private readonly calls = new Map<number, ToolCall>();
  private readonly announce = announcer();
  private live: Live = { phase: "waiting", started_ms: performance.now(), ttft_ms: null, tokens: 0, tokens_per_s: null };
  private first_ms = 0;
  private last_ms = 0;
  private reported = 0;
  private timer = 0;

  constructor(
    private readonly id: string,
    private readonly message: Message,
  ) {
    this.showLive();
  }

  take(piece: Piece): void {
    const { message, live } = this;
    if (piece.content !== undefined) message.content += piece.content;
    if (piece.reasoning !== undefined) message.reasoning = (message.reasoning ?? "") + piece.reasoning;
    for (const { index, id, name, arguments: args } of piece.calls ?? []) {
      const call = this.calls.get(index) ?? { id: id ?? newId(), name: "", arguments: "" };
      this.calls.set(index, { id: id ?? call.id, name: call.name + (name ?? ""), arguments: call.arguments + (args ?? "") });
    }
    if (this.calls.size) message.calls = [...this.calls.values()];
    if (piece.finish === "length") message.ended = "length";
    if (piece.completion_tokens !== undefined) this.reported = piece.completion_tokens;
    if (piece.content !== undefined || piece.reasoning !== undefined || piece.calls?.length) {
      this.last_ms = performance.now();
      this.first_ms ||= this.last_ms;
      this.live = {
        phase: "answering",
        started_ms: live.started_ms,
        ttft_ms: this.first_ms - live.started_ms,
        tokens: live.tokens + 1, // a piece is about a token; the server's own count comes last
        tokens_per_s: this.rate(live.tokens + 1),
      };
      this.timer ||= window.setTimeout(() => this.show(), SHOW_EVERY_MS);
    }
  }

  end(patch: Partial<Message>): void {
    clearTimeout(this.timer);
    const tokens = this.reported || this.live.tokens;
    if (this.live.ttft_ms !== null) {
      this.message.timing = { ttft_ms: this.live.ttft_ms, tokens, tokens_per_s: this.rate(tokens) ?? 0 };
    }
    Object.assign(this.message, patch);
    changeMessage(this.id, this.message.id, { ...this.message });
    change(this.id, () => ({}), true);
    this.announce(this.message.error ?? this.message.content, true);
  }

  private rate(tokens: number): number | null {
    const elapsed_s = (this.last_ms - this.first_ms) / 1000;
    return tokens > 1 && elapsed_s >= SHORTEST_S ? (tokens - 1) / elapsed_s : null;
  }

  private show(): void {
    this.timer = 0;
    changeMessage(this.id, this.message.id, { ...this.message });
    this.showLive();
    this.announce(this.message.content, false);
  }

  private showLive(): void {
    update({ live: { ...getState().live, [this.id]: this.live } });
  }
}
