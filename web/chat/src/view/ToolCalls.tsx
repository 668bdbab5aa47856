// What a model wants called, folded. The page calls nothing: a person gives the results.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { giveResults } from "../answer";
import type { Message, ToolCall } from "../types";
import { CodeBlock } from "./CodeBlock";
import { Icon } from "./Icon";

function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // still being written
  }
}

function signature({ name, arguments: args }: ToolCall): string {
  const line = args.replace(/\s+/g, " ").trim();
  return `${name}(${line.length > 60 ? `${line.slice(0, 60)}…` : line})`;
}

interface Properties {
  conversationId: string;
  calls: ToolCall[];
  /** Results can be given: it is the last message, and whole. */
  open: boolean;
}

export function ToolCalls({ conversationId, calls, open }: Properties): JSX.Element {
  const [results, setResults] = useState<Record<string, string>>({});
  return (
    <form
      class="calls"
      onSubmit={(event) => {
        event.preventDefault();
        giveResults(conversationId, calls.map(({ id }) => ({ call_id: id, content: results[id] ?? "" })));
      }}
    >
      {calls.map((call) => (
        <div key={call.id}>
          <details class="fold">
            <summary><Icon name="tool" /> <span>Call <code>{signature(call)}</code></span></summary>
            <CodeBlock code={pretty(call.arguments)} language="json" />
          </details>
          {open && (
            <input
              class="result"
              aria-label={`Result of ${call.name}`}
              placeholder={`Result of ${call.name}`}
              value={results[call.id] ?? ""}
              onInput={(event) => setResults({ ...results, [call.id]: event.currentTarget.value })}
            />
          )}
        </div>
      ))}
      {open && <button type="submit" class="button primary">{calls.length > 1 ? "Give the results" : "Give the result"}</button>}
    </form>
  );
}

export function CallResult({ message }: { message: Message }): JSX.Element {
  return (
    <article class="message result-message" aria-label="Result of a call">
      <details class="fold">
        <summary><Icon name="check" /> Result of the call</summary>
        <CodeBlock code={pretty(message.content)} language={/^\s*[[{]/.test(message.content) ? "json" : ""} />
      </details>
    </article>
  );
}
