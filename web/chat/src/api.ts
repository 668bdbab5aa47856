// The server's HTTP API, as any client of OpenAI's would use it. Every request goes to the origin of the page.
import { events } from "./sse";
import type { Health } from "./types";
import { field, requestBody, toPiece, type ChatRequest, type Piece } from "./wire";

const KEY = "ingle.key";

export class ApiError extends Error {
  constructor(message: string, readonly status: number) {
    super(message);
  }
}

function stored(storage: () => Storage): string | null {
  try {
    return storage().getItem(KEY);
  } catch {
    return null;
  }
}

let key = stored(() => sessionStorage) ?? stored(() => localStorage);

export function setKey(value: string | null, remember: boolean): void {
  key = value;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (value !== null) (remember ? localStorage : sessionStorage).setItem(KEY, value);
  } catch {
    // storage is switched off: the key then holds until the page is closed
  }
}

export const hasKey = (): boolean => key !== null;

/** A phone that scanned the code of `ingle serve --lan` brings the key as #key=...: taken, and removed from the address. */
export function takeKeyFromAddress(): void {
  const found = /^#key=([\w.~+/=-]{1,256})$/.exec(location.hash);
  if (!found) return;
  setKey(decodeURIComponent(found[1] ?? ""), false);
  history.replaceState(null, "", location.pathname + location.search);
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Look whether `ingle serve` is still running, then try again.", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  const body: unknown = await response.json().catch(() => null);
  let message = errorMessage(body) ?? `The server answered with status ${response.status}.`;
  if (field(field(body, "error"), "code") === "context_length_exceeded") message += " A new conversation starts with an empty context.";
  const wait_s = Number(response.headers.get("Retry-After"));
  if (response.status === 429 && wait_s > 0 && !message.includes("again")) message += ` It asks to try again in ${wait_s} s.`;
  return new ApiError(message, response.status);
}

function errorMessage(body: unknown): string | null {
  const message = field(field(body, "error"), "message");
  return typeof message === "string" ? message : null;
}

export async function models(): Promise<string[]> {
  const list = field(await (await ask("v1/models")).json(), "data");
  if (!Array.isArray(list)) throw new ApiError("The server's list of models is not one.", 0);
  return list.map((model) => field(model, "id")).filter((id) => typeof id === "string");
}

export async function health(): Promise<Health> {
  const body: unknown = await (await ask("health")).json();
  const [model, memory_bytes] = [field(body, "model"), field(body, "memory_bytes")];
  return {
    model: typeof model === "string" ? model : null,
    memory_bytes: typeof memory_bytes === "number" && memory_bytes > 0 ? memory_bytes : null,
  };
}

export async function* chat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<Piece> {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(requestBody(request)),
    signal,
  });
  if (!response.body) throw new ApiError("The server sent no answer.", 0);
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const body: unknown = JSON.parse(data);
    const problem = errorMessage(body);
    if (problem !== null) throw new ApiError(problem, 0);
    const piece = toPiece(body);
    ended ||= piece.finish !== undefined;
    yield piece;
  }
  if (!ended) throw new ApiError("The connection ended before the answer did. What came is kept.", 0);
}
