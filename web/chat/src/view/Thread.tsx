import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { send } from "../answer";
import { currentOf, useStore } from "../store";
import { Flame, Icon } from "./Icon";
import { MessageView } from "./MessageView";

const NEAR_PX = 60; // so near to the end, the page follows the answer

const PROMPTS: [string, string][] = [
  ["Tell a story", "Tell me a story about a little dog who wanted to see the sea."],
  ["Explain", "Why is the sky blue? Explain it to a curious ten-year-old."],
  ["Write code", "Write a Python function that groups words that are anagrams, with a short example."],
  ["Plan", "Plan a quiet weekend at home for two, in a short list."],
];

function Welcome(): JSX.Element {
  return (
    <div class="welcome">
      <Flame />
      <p class="greeting">What is on your mind?</p>
      <p class="dim">A private conversation: it is computed by your own server and kept in this browser.</p>
      <ul class="prompts">
        {PROMPTS.map(([title, prompt]) => (
          <li key={title}>
            <button type="button" onClick={() => send(prompt)}>
              <strong>{title}</strong>
              <span>{prompt}</span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** Follows the end of a growing answer, until the person scrolls up. */
export function Thread(): JSX.Element {
  const conversation = useStore(currentOf);
  const live = useStore((s) => s.currentId !== null && s.currentId in s.live);
  const ready = useStore((s) => s.ready);
  const box = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const count = conversation?.messages.length ?? 0;

  const toEnd = (smooth: boolean): void => {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    box.current?.scrollTo({ top: box.current.scrollHeight, behavior: smooth && !still ? "smooth" : "instant" });
  };
  useLayoutEffect(() => {
    follows.current = true;
    toEnd(false);
  }, [conversation?.id, count]);
  useLayoutEffect(() => {
    if (follows.current) toEnd(false);
  }, [conversation?.messages]);
  useEffect(() => {
    const observer = new ResizeObserver(() => follows.current && toEnd(false)); // the keyboard of a phone, a longer composer
    if (box.current) observer.observe(box.current);
    const unfolded = (event: Event): void => {
      const fold = event.target as HTMLElement;
      (fold.closest(".calls") ?? fold).scrollIntoView({ block: "nearest" });
    };
    box.current?.addEventListener("toggle", unfolded, { capture: true }); // it does not bubble
    return () => observer.disconnect();
  }, []);

  const onScroll = (): void => {
    const { scrollHeight, scrollTop, clientHeight } = box.current as HTMLDivElement;
    follows.current = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    setAway(!follows.current);
  };

  return (
    <div class="thread-frame">
      <div class="thread" ref={box} onScroll={onScroll} tabIndex={-1}>
        {!conversation?.messages.length ? (
          ready && <Welcome />
        ) : (
          <div class="messages">
            {conversation.messages.map((message, at) => (
              <MessageView
                key={message.id}
                conversationId={conversation.id}
                message={message}
                live={live && at === count - 1}
                last={at === count - 1}
              />
            ))}
          </div>
        )}
      </div>
      {away && count > 0 && (
        <button type="button" class="to-end" aria-label="To the end" title="To the end" onClick={() => toEnd(true)}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}
