// The state of the page: one immutable value, replaced by update(); components read parts of it with useStore().
import { useLayoutEffect, useReducer, useRef } from "preact/hooks";
import { storedTheme, type Theme } from "./theme";
import { DEFAULTS, type Conversation, type Health, type Live, type Settings } from "./types";

export interface Toast {
  text: string;
  undo?: () => void;
}

export interface State {
  ready: boolean;
  /** Newest first. */
  conversations: Conversation[];
  /** null: a conversation that begins with the next message. */
  currentId: string | null;
  /** Of the conversation that is not begun yet. */
  draft: Settings;
  models: string[];
  model: string | null;
  health: Health | null;
  /** Answers being written, by conversation. */
  live: Record<string, Live>;
  dialog: "settings" | "key" | null;
  /** The key that was sent was refused. */
  keyRefused: boolean;
  /** The drawer of a narrow window. */
  drawer: boolean;
  theme: Theme;
  toast: Toast | null;
}

let state: State = {
  ready: false,
  conversations: [],
  currentId: null,
  draft: DEFAULTS,
  models: [],
  model: null,
  health: null,
  live: {},
  dialog: null,
  keyRefused: false,
  drawer: false,
  theme: storedTheme(),
  toast: null,
};
const listeners = new Set<() => void>();

export const getState = (): State => state;

export function update(patch: Partial<State>): void {
  state = { ...state, ...patch };
  for (const listener of listeners) listener();
}

export function useStore<T>(select: (state: State) => T): T {
  const [, refresh] = useReducer<number, null>((count) => count + 1, 0);
  const value = select(state);
  const seen = useRef({ select, value });
  seen.current = { select, value };
  useLayoutEffect(() => {
    const listener = (): void => {
      if (!Object.is(seen.current.select(state), seen.current.value)) refresh(null);
    };
    listeners.add(listener);
    listener(); // what changed between rendering and now
    return () => void listeners.delete(listener);
  }, []);
  return value;
}

export function currentOf(s: State): Conversation | undefined {
  return s.conversations.find((conversation) => conversation.id === s.currentId);
}

let toastTimer = 0;

export function toast(text: string, undo?: () => void): void {
  clearTimeout(toastTimer);
  update({ toast: undo ? { text, undo } : { text } });
  toastTimer = window.setTimeout(() => update({ toast: null }), undo ? 10_000 : 4_000);
}

export function closeToast(): void {
  clearTimeout(toastTimer);
  update({ toast: null });
}
