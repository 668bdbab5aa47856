import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { send, stop } from "../answer";
import { currentOf, getState, useStore } from "../store";
import { Icon } from "./Icon";
import { LiveLine } from "./LiveLine";

const drafts = new Map<string | null, string>(); // what was typed and not sent, by conversation
const touch = matchMedia("(hover: none) and (pointer: coarse)"); // there Enter breaks the line, as phones do

/** As high as its text, up to what the style sheet allows. */
export function fit(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

export function Composer(): JSX.Element {
  const currentId = useStore((s) => s.currentId);
  const answering = useStore((s) => s.currentId !== null && s.currentId in s.live);
  const waitsForResults = useStore((s) => {
    const last = currentOf(s)?.messages.at(-1);
    return last?.role === "assistant" && !!last.calls?.length && !last.error;
  });
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);

  useLayoutEffect(() => {
    setText(drafts.get(currentId) ?? "");
    if (!touch.matches) area.current?.focus();
  }, [currentId]);
  useLayoutEffect(() => fit(area.current), [text]);

  const type = (value: string): void => {
    drafts.set(currentId, value);
    setText(value);
  };
  const submit = (): void => {
    if (answering || !text.trim()) return;
    type("");
    send(text);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.isComposing) return; // Enter that ends a word of an input method sends nothing
    if (event.key === "Enter" && !event.shiftKey && !touch.matches) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !text && !answering) {
      const edits = document.querySelectorAll<HTMLElement>("[data-edit]");
      edits[edits.length - 1]?.click();
      event.preventDefault();
    }
  };

  return (
    <footer class="composer">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
      >
        <textarea
          ref={area}
          rows={1}
          value={text}
          placeholder={waitsForResults ? "Give the results above, or write on …" : "Write a message …"}
          aria-label="Message"
          enterkeyhint={touch.matches ? "enter" : "send"}
          onInput={(event) => type(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {answering ? (
          <button type="button" class="send stop" aria-label="Stop the answer" title="Stop (Esc)" onClick={() => stop(getState().currentId)}>
            <span class="square" />
          </button>
        ) : (
          <button type="submit" class="send" aria-label="Send" title="Send (Enter)" disabled={!text.trim()}>
            <Icon name="send" />
          </button>
        )}
      </form>
      <LiveLine />
    </footer>
  );
}
