import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { setKey } from "../api";
import { connect } from "../connect";
import { useStore } from "../store";
import { Dialog } from "./Dialog";

export function KeyDialog(): JSX.Element {
  const refused = useStore((s) => s.keyRefused);
  const [remember, setRemember] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <Dialog title="API key">
      <form
        class="key"
        onSubmit={(event) => {
          event.preventDefault();
          const value = input.current?.value.trim();
          if (!value) return;
          setKey(value, remember);
          void connect(true);
        }}
      >
        <p class="dim">This server asks for its key. It was shown once, where <code>ingle serve</code> was started.</p>
        <label class="field">
          <span>Key</span>
          <input ref={input} type="password" autocomplete="off" spellcheck={false} required aria-invalid={refused ? "true" : undefined} aria-describedby="key-problem" autofocus />
        </label>
        <p id="key-problem" class="problem" role="alert" hidden={!refused}>The server did not accept this key.</p>
        <label class="tick">
          <input type="checkbox" checked={remember} onChange={(event) => setRemember(event.currentTarget.checked)} /> Remember it in this browser
        </label>
        <p class="dim">Otherwise it is forgotten when this tab is closed.</p>
        <div class="buttons">
          <button type="submit" class="button primary">Use this key</button>
        </div>
      </form>
    </Dialog>
  );
}
