// One line under the composer: what the answer takes while it is written, and what the server needs.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { currentOf, useStore } from "../store";
import type { Timing } from "../types";

export const seconds = (ms: number): string => (ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9_950 ? 1 : 0)} s`);
export const rate = (value: number): string => `${value.toFixed(value < 99.95 ? 1 : 0)} tokens/s`;

export function memory(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}

export function timing({ ttft_ms, tokens, tokens_per_s }: Timing): string {
  const parts = [`first token ${seconds(ttft_ms)}`, `${tokens} ${tokens === 1 ? "token" : "tokens"}`];
  if (tokens_per_s) parts.unshift(rate(tokens_per_s));
  return parts.join(" · ");
}

/** Counts up while the first token is awaited. */
function Waiting({ since_ms }: { since_ms: number }): JSX.Element {
  const [now, setNow] = useState(performance.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), 100);
    return () => clearInterval(timer);
  }, []);
  return <>{`reading · ${(Math.max(0, now - since_ms) / 1000).toFixed(1)} s`}</>;
}

function place(): string {
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  return here ? "Everything stays on this device" : `Everything stays between you and ${location.hostname}`;
}

export function LiveLine(): JSX.Element {
  const live = useStore((s) => (s.currentId ? s.live[s.currentId] : undefined));
  const last = useStore((s) => currentOf(s)?.messages.findLast((message) => message.timing)?.timing);
  const health = useStore((s) => s.health);
  return (
    <div class="live-line">
      <span data-live>
        {live?.phase === "waiting" ? (
          <Waiting since_ms={live.started_ms} />
        ) : live ? (
          timing({ ttft_ms: live.ttft_ms ?? 0, tokens: live.tokens, tokens_per_s: live.tokens_per_s ?? 0 })
        ) : last ? (
          timing(last)
        ) : (
          place()
        )}
      </span>
      {health?.memory_bytes && <span>memory {memory(health.memory_bytes)}</span>}
    </div>
  );
}
