import type { JSX } from "preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { stop } from "../answer";
import { remove, rename, select } from "../conversations";
import { useStore } from "../store";
import type { Conversation } from "../types";
import { Icon } from "./Icon";

function matches(conversation: Conversation, words: string[]): boolean {
  if (!words.length) return true;
  const text = [conversation.title, ...conversation.messages.map((message) => message.content)].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The heading under which a conversation stands, by calendar days. */
export function period(time_ms: number, now = new Date()): string {
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const days = Math.ceil((midnight - time_ms) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days <= 7 ? "This week" : days <= 31 ? "This month" : "Earlier";
}

interface RowProperties {
  id: string;
  title: string;
  current: boolean;
  focusable: boolean;
}

function TitleField({ id, title, done }: { id: string; title: string; done: () => void }): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  const ended = useRef(false); // a field that is taken away loses the focus, too
  useLayoutEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  const finish = (write: boolean): void => {
    if (ended.current) return;
    ended.current = true;
    if (write) rename(id, input.current?.value ?? "");
    done();
  };
  return (
    <input
      ref={input}
      class="rename"
      aria-label="Title of the conversation"
      defaultValue={title}
      maxLength={200}
      onBlur={() => finish(true)}
      onKeyDown={(event) => {
        if (event.isComposing) return;
        event.stopPropagation();
        if (event.key === "Enter" || event.key === "Escape") finish(event.key === "Enter");
      }}
    />
  );
}

function RowView({ id, title, current, focusable }: RowProperties): JSX.Element {
  const [renaming, setRenaming] = useState(false);
  const answering = useStore((s) => id in s.live);
  const button = useRef<HTMLButtonElement>(null);
  const forget = (): void => {
    stop(id);
    remove(id);
  };
  const renamed = (): void => {
    setRenaming(false);
    setTimeout(() => button.current?.focus());
  };
  if (renaming) return <li><TitleField id={id} title={title} done={renamed} /></li>;
  return (
    <li class={current ? "row current" : "row"}>
      <button
        ref={button}
        type="button"
        class="row-open"
        tabIndex={focusable ? 0 : -1}
        aria-current={current ? "true" : undefined}
        aria-keyshortcuts="F2 Delete"
        onClick={() => select(id)}
        onDblClick={() => setRenaming(true)}
        onKeyDown={(event) => {
          if (event.key === "F2") setRenaming(true);
          else if (event.key === "Delete") {
            const row = button.current?.closest("li");
            (row?.nextElementSibling ?? row?.previousElementSibling)?.querySelector("button")?.focus();
            forget();
          }
        }}
      >
        <span class="row-title">{title}</span>
        {answering && <span class="pulse" role="img" aria-label="answering" />}
      </button>
      <span class="row-tools">
        <button type="button" class="icon-button" aria-label={`Rename “${title}”`} title="Rename (F2)" onClick={() => setRenaming(true)}>
          <Icon name="pencil" />
        </button>
        <button type="button" class="icon-button" aria-label={`Delete “${title}”`} title="Delete (Del)" onClick={forget}>
          <Icon name="trash" />
        </button>
      </span>
    </li>
  );
}

/** Drawn again only when it changed, and not with every piece of an answer. */
function Row({ id, title, current, focusable }: RowProperties): JSX.Element {
  return useMemo(() => <RowView id={id} title={title} current={current} focusable={focusable} />, [id, title, current, focusable]);
}

export function ConversationList({ words }: { words: string[] }): JSX.Element {
  const conversations = useStore((s) => s.conversations);
  const currentId = useStore((s) => s.currentId);
  const shown = useMemo(() => conversations.filter((c) => matches(c, words)), [conversations, words.join(" ")]);
  const entry = shown.some((c) => c.id === currentId) ? currentId : shown[0]?.id; // the one that Tab reaches
  const groups = new Map<string, Conversation[]>();
  for (const c of shown) {
    const name = period(c.updated_ms);
    const members = groups.get(name);
    if (members) members.push(c);
    else groups.set(name, [c]);
  }

  const onKeyDown = (event: KeyboardEvent): void => {
    const all = [...(event.currentTarget as HTMLElement).querySelectorAll<HTMLButtonElement>(".row-open")];
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))]?.focus();
  };

  return (
    <nav class="list" aria-label="Conversations" onKeyDown={onKeyDown}>
      {[...groups].map(([name, members]) => (
        <section key={name} aria-label={name}>
          <h2>{name}</h2>
          <ul>{members.map((c) => <Row key={c.id} id={c.id} title={c.title} current={c.id === currentId} focusable={c.id === entry} />)}</ul>
        </section>
      ))}
      {!shown.length && <p class="nothing">{words.length ? "Nothing was found." : "Conversations appear here. They are kept in this browser only."}</p>}
    </nav>
  );
}
