import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { keep, select } from "../conversations";
import { getState, toast, update, useStore } from "../store";
import { chooseTheme, type Theme } from "../theme";
import { download, read, toJson } from "../transfer";
import { ConversationList } from "./ConversationList";
import { Flame, Icon, type IconName } from "./Icon";
import { Menu } from "./Menu";

async function importFile(file: File): Promise<void> {
  try {
    const found = await read(file);
    for (const conversation of found) keep(conversation);
    select(found[0]?.id ?? null);
    toast(found.length === 1 ? "One conversation was imported." : `${found.length} conversations were imported.`);
  } catch (error) {
    toast(error instanceof Error ? error.message : "The file could not be read.");
  }
}

const THEMES: [Theme, string, IconName][] = [["system", "As the system", "screen"], ["light", "Light", "sun"], ["dark", "Dark", "moon"]];

function ThemeChoice(): JSX.Element {
  const theme = useStore((s) => s.theme);
  return (
    <fieldset class="themes">
      <legend class="sr-only">Theme</legend>
      {THEMES.map(([value, label, icon]) => (
        <label key={value} title={label}>
          <input
            type="radio"
            name="theme"
            class="sr-only"
            checked={theme === value}
            onChange={() => {
              chooseTheme(value);
              update({ theme: value });
            }}
          />
          <Icon name={icon} />
          <span class="sr-only">{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Sidebar(): JSX.Element {
  const [query, setQuery] = useState("");
  const file = useRef<HTMLInputElement>(null);
  const none = useStore((s) => s.conversations.length === 0);
  const exportAll = (): void => download("ingle-conversations.json", toJson(getState().conversations), "application/json");
  return (
    <>
      <div class="brand">
        <Flame />
        <span class="word">Ingle</span>
        <button type="button" class="icon-button only-narrow" aria-label="Close the list" onClick={() => update({ drawer: false })}>
          <Icon name="close" />
        </button>
      </div>
      <button type="button" class="new" aria-keyshortcuts="Control+K Meta+K" onClick={() => select(null)}>
        <Icon name="plus" /> New conversation <kbd class="only-wide">{/Mac|iP/.test(navigator.platform) ? "⌘K" : "Ctrl K"}</kbd>
      </button>
      <label class="search">
        <Icon name="search" />
        <input
          type="search"
          placeholder="Search"
          aria-label="Search conversations"
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "ArrowDown") document.querySelector<HTMLElement>(".row-open")?.focus();
            if (event.key === "Escape" && query) {
              event.stopPropagation(); // an answer goes on
              setQuery("");
            }
          }}
        />
      </label>
      <ConversationList words={query.toLowerCase().split(/\s+/).filter(Boolean)} />
      <div class="foot">
        <ThemeChoice />
        <Menu
          label="Import and export all"
          icon="more"
          entries={[
            { label: "Import a file …", act: () => file.current?.click() },
            { label: "Export all (JSON)", act: exportAll, disabled: none },
          ]}
        />
        <input
          ref={file}
          class="file"
          type="file"
          accept=".json,.md,application/json,text/markdown"
          aria-label="File to import"
          tabIndex={-1}
          onChange={(event) => {
            const input = event.currentTarget;
            if (input.files?.[0]) void importFile(input.files[0]);
            input.value = "";
          }}
        />
      </div>
    </>
  );
}
