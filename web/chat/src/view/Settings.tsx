import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { hasKey, setKey } from "../api";
import { setSettings } from "../conversations";
import { currentOf, toast, update, useStore } from "../store";
import { DEFAULTS, type Settings as Values } from "../types";
import { toolsProblem } from "../wire";
import { Dialog } from "./Dialog";

type NumberName = "temperature" | "top_p" | "min_p" | "max_tokens" | "seed";

const NUMBERS: { name: NumberName; label: string; hint: string; min: number; max: number; step: number }[] = [
  { name: "temperature", label: "Temperature", hint: "0 always takes the likeliest word; higher is livelier", min: 0, max: 2, step: 0.05 },
  { name: "top_p", label: "Top p", hint: "chooses among the likeliest words that make up this share", min: 0, max: 1, step: 0.01 },
  { name: "min_p", label: "Min p", hint: "leaves out words less likely than this share of the likeliest", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", label: "Max tokens", hint: "the longest answer", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", label: "Seed", hint: "the same seed gives the same answer", min: 0, max: 2 ** 31 - 1, step: 1 },
];

export function Settings(): JSX.Element {
  const settings = useStore((s) => currentOf(s)?.settings ?? s.draft);
  const [tools, setTools] = useState(settings.tools);
  const [hadTools] = useState(tools !== "");
  const problem = toolsProblem(tools);
  const set = (patch: Partial<Values>): void => setSettings({ ...settings, ...patch });

  const onNumber = (name: NumberName, input: HTMLInputElement): void => {
    if (input.validity.valid) set({ [name]: input.value === "" ? null : input.valueAsNumber });
  };

  return (
    <Dialog title="Settings">
      <p class="dim">They hold for this conversation, and new ones begin with them. An empty field leaves the choice to the server.</p>
      <label class="field">
        <span>System prompt</span>
        <textarea
          rows={4}
          value={settings.system}
          placeholder="Who the model is, and how it should answer."
          onInput={(event) => set({ system: event.currentTarget.value })}
        />
      </label>
      <div class="numbers">
        {NUMBERS.map(({ name, label, hint, ...range }) => (
          <div key={name} class="field">
            <label for={`set-${name}`}>{label}</label>
            <input
              id={`set-${name}`}
              type="number"
              inputMode="decimal"
              name={name}
              {...range}
              placeholder="default"
              defaultValue={settings[name] ?? ""}
              aria-describedby={`hint-${name}`}
              onInput={(event) => onNumber(name, event.currentTarget)}
            />
            <small id={`hint-${name}`}>{hint}</small>
          </div>
        ))}
      </div>
      <details class="field advanced" open={hadTools}>
        <summary>Tools</summary>
        <label>
          <span class="sr-only">Tools as JSON</span>
          <textarea
            class="mono"
            rows={6}
            value={tools}
            spellcheck={false}
            placeholder={'[{"type": "function", "function": {"name": "set_alarm", "parameters": {"type": "object", "properties": {"time": {"type": "string"}}}}}]'}
            aria-invalid={problem ? "true" : undefined}
            aria-describedby="hint-tools"
            onInput={(event) => {
              const text = event.currentTarget.value;
              setTools(text);
              if (!toolsProblem(text)) set({ tools: text });
            }}
          />
        </label>
        <small id="hint-tools">{problem || "Functions that the model may ask for, as in OpenAI's API. The page shows the calls; you give the results."}</small>
      </details>
      <details class="field advanced">
        <summary>Keys</summary>
        <dl class="keys">
          <dt><kbd>Enter</kbd></dt><dd>send</dd>
          <dt><kbd>Shift</kbd> <kbd>Enter</kbd></dt><dd>new line</dd>
          <dt><kbd>Esc</kbd></dt><dd>stop the answer</dd>
          <dt><kbd>↑</kbd></dt><dd>in an empty field: edit your last message</dd>
          <dt><kbd>Ctrl</kbd>/<kbd>⌘</kbd> <kbd>K</kbd></dt><dd>new conversation</dd>
          <dt><kbd>↑</kbd> <kbd>↓</kbd></dt><dd>in the list: move; <kbd>F2</kbd> renames, <kbd>Del</kbd> deletes</dd>
        </dl>
      </details>
      <div class="buttons">
        {hasKey() && (
          <button
            type="button"
            class="button"
            onClick={() => {
              setKey(null, false);
              update({ dialog: null });
              toast("The API key was forgotten.");
            }}
          >
            Forget the API key
          </button>
        )}
        <button
          type="button"
          class="button"
          onClick={() => {
            setSettings(DEFAULTS);
            update({ dialog: null });
            toast("The settings are the server's defaults again.");
          }}
        >
          Reset
        </button>
        <button type="button" class="button primary" onClick={() => update({ dialog: null })}>Done</button>
      </div>
    </Dialog>
  );
}
