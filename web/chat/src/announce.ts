// Streamed text for screen readers: whole sentences, politely, and never word by word.
let region: HTMLElement | null = null;

export const setRegion = (element: HTMLElement | null): void => void (region = element);

const EVERY_MS = 2000;

/** A function that is told the text so far, and says what of it is new and finished. */
export function announcer(): (text: string, ended: boolean) => void {
  let said = 0;
  let last_ms = performance.now();
  say("Answering.");
  return (text, ended) => {
    if (!ended && performance.now() - last_ms < EVERY_MS) return;
    const fresh = text.slice(said);
    const whole = ended ? fresh.length : lastEnd(fresh);
    if (whole > 0) say(plain(fresh.slice(0, whole)));
    if (ended) say("End of the answer.");
    said += whole;
    last_ms = performance.now();
  };
}

function lastEnd(text: string): number {
  return Math.max(...[...text.matchAll(/[.!?:]\s|\n/g)].map((found) => found.index + found[0].length), 0);
}

const plain = (markdown: string): string =>
  markdown.replace(/^```.*$|[*`]+/gm, "").replace(/[_#|>]+/g, " ").replace(/\s+/g, " ").trim();

function say(text: string): void {
  if (!region || !text) return;
  const line = document.createElement("p");
  line.textContent = text;
  region.append(line);
  while (region.childElementCount > 12) region.firstElementChild?.remove();
}
