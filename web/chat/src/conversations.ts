// What can be done with conversations: begin, change, delete, keep. Other tabs of the page follow.
import * as db from "./db";
import { currentOf, getState, toast, update } from "./store";
import { toSettings } from "./transfer";
import { DEFAULTS, newId, type Conversation, type Message, type Settings } from "./types";

const DEFAULTS_KEY = "ingle.defaults";
const WRITE_EVERY_MS = 1000;
const channel = "BroadcastChannel" in window ? new BroadcastChannel("ingle") : null;
const unsaved = new Set<string>();
let timer = 0;
let storageFailed = false;

const newestFirst = (a: Conversation, b: Conversation): number => b.updated_ms - a.updated_ms;
const byId = (id: string): Conversation | undefined => getState().conversations.find((c) => c.id === id);
export const conversationOf = byId;

function noStorage(): void {
  if (!storageFailed) toast("This browser stores nothing here: conversations are gone when the page is closed.");
  storageFailed = true;
}

export async function openAll(): Promise<void> {
  const conversations = await db.loadAll().catch(() => (noStorage(), []));
  const wanted = lastShown();
  const currentId = conversations.some((c) => c.id === wanted) ? wanted : null;
  update({ ready: true, conversations: conversations.sort(newestFirst), currentId, draft: storedDefaults() });
  if (channel) channel.onmessage = ({ data }: MessageEvent<string>) => void follow(data);
  addEventListener("pagehide", flush);
  document.addEventListener("visibilitychange", () => document.hidden && flush()); // all that a phone may say before the end
}

function lastShown(): string | null {
  try {
    return sessionStorage.getItem("ingle.current");
  } catch {
    return null;
  }
}

async function follow(id: string): Promise<void> {
  if (getState().live[id]) return; // two tabs in one conversation: the one that writes is right
  const theirs = await db.load(id).catch(() => undefined);
  const others = getState().conversations.filter((c) => c.id !== id);
  update({ conversations: (theirs ? [...others, theirs] : others).sort(newestFirst) });
  if (!theirs && getState().currentId === id) update({ currentId: null });
}

function flush(): void {
  clearTimeout(timer);
  timer = 0;
  for (const id of unsaved) {
    const conversation = byId(id);
    if (conversation) db.save(conversation).then(() => channel?.postMessage(id), noStorage);
  }
  unsaved.clear();
}

/** Changes a conversation, on the screen now and in storage within a second; at once where `touch` says that it is the newest. */
export function change(id: string, alter: (conversation: Conversation) => Partial<Conversation>, touch = false): void {
  const conversations = getState().conversations.map((c) =>
    c.id === id ? { ...c, ...alter(c), ...(touch && { updated_ms: Date.now() }) } : c,
  );
  update({ conversations: touch ? conversations.sort(newestFirst) : conversations });
  unsaved.add(id);
  if (touch) flush();
  else timer ||= window.setTimeout(flush, WRITE_EVERY_MS);
}

export function changeMessage(id: string, messageId: string, patch: Partial<Message>): void {
  change(id, (c) => ({ messages: c.messages.map((m) => (m.id === messageId ? { ...m, ...patch } : m)) }));
}

export const setMessages = (id: string, messages: Message[]): void => change(id, () => ({ messages }), true);

/** Also writes at once: for what a person did, as against pieces of an answer. */
export function keep(conversation: Conversation): void {
  const others = getState().conversations.filter((c) => c.id !== conversation.id);
  update({ conversations: [...others, conversation].sort(newestFirst) });
  unsaved.add(conversation.id);
  flush();
}

/** The conversation on the screen; begun with this title where there is none. */
export function ensureCurrent(text: string): Conversation {
  const found = currentOf(getState());
  if (found) return found;
  const now = Date.now();
  const conversation = { id: newId(), title: titleOf(text), created_ms: now, updated_ms: now, settings: getState().draft, messages: [] };
  keep(conversation);
  select(conversation.id);
  return conversation;
}

export function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length <= 60 ? line || "Conversation" : `${line.slice(0, 60).replace(/\s+\S*$/, "")} …`;
}

export function select(id: string | null): void {
  update({ currentId: id, drawer: false });
  try {
    sessionStorage.setItem("ingle.current", id ?? "");
  } catch {
    // a reload then shows a new conversation
  }
}

export function rename(id: string, title: string): void {
  if (title.trim()) change(id, () => ({ title: title.trim().slice(0, 200) }));
  flush();
}

export function remove(id: string): void {
  const gone = byId(id);
  if (!gone) return;
  update({ conversations: getState().conversations.filter((c) => c.id !== id) });
  if (getState().currentId === id) select(null);
  unsaved.delete(id);
  db.remove(id).then(() => channel?.postMessage(id), noStorage);
  toast(`“${gone.title}” was deleted.`, () => {
    keep(gone);
    select(gone.id);
  });
}

function storedDefaults(): Settings {
  try {
    return toSettings(JSON.parse(localStorage.getItem(DEFAULTS_KEY) ?? "{}"));
  } catch {
    return DEFAULTS;
  }
}

/** Settings hold for the conversation on the screen, and new ones begin with them. */
export function setSettings(settings: Settings): void {
  const { currentId } = getState();
  if (currentId) change(currentId, () => ({ settings }));
  update({ draft: settings });
  flush();
  try {
    localStorage.setItem(DEFAULTS_KEY, JSON.stringify(settings));
  } catch {
    // new conversations then begin with the server's defaults
  }
}
