import type { JSX } from "preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { edit, regenerate } from "../answer";
import { Markdown } from "../markdown";
import type { Message } from "../types";
import { CopyButton } from "./CopyButton";
import { fit } from "./Composer";
import { Flame, Icon } from "./Icon";
import { timing } from "./LiveLine";
import { CallResult, ToolCalls } from "./ToolCalls";

interface Properties {
  conversationId: string;
  message: Message;
  live: boolean;
  last: boolean;
}

/** Drawn again only when the message itself changed. */
export function MessageView({ conversationId, message, live, last }: Properties): JSX.Element {
  return useMemo(() => {
    if (message.role === "tool") return <CallResult message={message} />;
    return message.role === "user" ? (
      <Question conversationId={conversationId} message={message} />
    ) : (
      <Answer conversationId={conversationId} message={message} live={live} last={last} />
    );
  }, [conversationId, message, live, last]);
}

function Question({ conversationId, message }: { conversationId: string; message: Message }): JSX.Element {
  const [editing, setEditing] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const close = (): void => {
    setEditing(false);
    setTimeout(() => button.current?.focus());
  };
  if (editing) return <Editor text={message.content} close={close} save={(text) => edit(conversationId, message.id, text)} />;
  return (
    <article class="message question" aria-label="You">
      <h2 class="sr-only">You</h2>
      <div class="bubble">{message.content}</div>
      <div class="tools">
        <CopyButton text={message.content} label="Copy message" />
        <button ref={button} type="button" class="icon-button" data-edit aria-label="Edit message" title="Edit" onClick={() => setEditing(true)}>
          <Icon name="pencil" />
        </button>
      </div>
    </article>
  );
}

function Editor({ text, close, save }: { text: string; close: () => void; save: (text: string) => void }): JSX.Element {
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    fit(area.current);
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const submit = (): void => {
    const value = area.current?.value ?? "";
    if (!value.trim()) return;
    close();
    save(value);
    document.querySelector<HTMLElement>(".composer textarea")?.focus();
  };
  return (
    <form
      class="message editor"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
      onKeyDown={(event) => {
        if (event.isComposing) return;
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        } else if (event.key === "Enter" && !event.shiftKey && event.target === area.current) {
          event.preventDefault();
          submit();
        }
      }}
    >
      <textarea ref={area} aria-label="Edit message" defaultValue={text} onInput={() => fit(area.current)} />
      <div class="buttons">
        <button type="button" class="button" onClick={close}>Cancel</button>
        <button type="submit" class="button primary">Send</button>
      </div>
    </form>
  );
}

/** Models that think aloud write it in tags, where the server does not take it apart. */
function splitThought(message: Message): { thought: string; text: string; thinking: boolean } {
  const found = /^\s*<think>([\s\S]*?)(<\/think>\s*|$)/.exec(message.content);
  if (message.reasoning || !found) return { thought: message.reasoning ?? "", text: message.content, thinking: !message.content };
  return { thought: found[1]?.trim() ?? "", text: message.content.slice(found[0].length), thinking: !found[2] };
}

function Answer({ conversationId, message, live, last }: Properties): JSX.Element {
  const { thought, text, thinking } = splitThought(message);
  const empty = !text && !thought && !message.calls;
  return (
    <article class="message answer" aria-label="Answer" aria-busy={live}>
      <h2 class="sr-only">Answer</h2>
      {thought && (
        <details class="fold">
          <summary><Icon name="thought" /> {live && thinking ? "Thinking …" : "Thoughts"}</summary>
          <Markdown text={thought} ended={!live} />
        </details>
      )}
      {text && <Markdown text={text} ended={!live} />}
      {message.calls && <ToolCalls conversationId={conversationId} calls={message.calls} open={last && !live && !message.error} />}
      {live && empty && <p class="waiting"><Flame alight /><span>Reading …</span></p>}
      {message.error && <p class="problem" role="alert">{message.error}</p>}
      {!live && message.ended && <p class="note">{message.ended === "stopped" ? "You stopped this answer." : "This answer reached its limit of tokens."}</p>}
      {!live && (
        <div class={last ? "tools always" : "tools"}>
          {!empty && <CopyButton text={text} label="Copy answer" />}
          <button type="button" class="icon-button" aria-label={message.error ? "Try again" : "Answer again"} title={message.error ? "Try again" : "Answer again"} onClick={() => regenerate(conversationId, message.id)}>
            <Icon name="redo" />
            {message.error && "Try again"}
          </button>
          {message.timing && !last && <span class="timing">{timing(message.timing)}</span>}
        </div>
      )}
    </article>
  );
}
