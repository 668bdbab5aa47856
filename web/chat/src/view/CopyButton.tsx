import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { toast } from "../store";
import { Icon } from "./Icon";

/** The clipboard API exists in secure contexts only; over plain HTTP in a home network the old way remains. */
async function copy(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  const host = document.querySelector("dialog[open]") ?? document.body;
  const focused = document.activeElement;
  host.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  if (!done) throw new Error("not allowed");
}

export function CopyButton({ text, label }: { text: string; label: string }): JSX.Element {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  const onClick = (): void => void copy(text).then(() => setCopied(true), () => toast("The browser did not allow copying."));
  return (
    <button type="button" class="icon-button" aria-label={copied ? "Copied" : label} title={copied ? "Copied" : label} onClick={onClick}>
      <Icon name={copied ? "check" : "copy"} />
    </button>
  );
}
