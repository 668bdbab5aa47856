import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { setRegion } from "../announce";
import { stop } from "../answer";
import { select } from "../conversations";
import { closeToast, currentOf, getState, update, useStore } from "../store";
import { Composer } from "./Composer";
import { Header } from "./Header";
import { KeyDialog } from "./KeyDialog";
import { Settings } from "./Settings";
import { Sidebar } from "./Sidebar";
import { Thread } from "./Thread";

function useShortcuts(): void {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent): void => {
      if (event.isComposing || getState().dialog) return; // a dialog has its own Escape
      if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
        event.preventDefault();
        select(null);
        document.querySelector<HTMLElement>(".composer textarea")?.focus();
      } else if (event.key === "Escape") {
        if (getState().drawer) update({ drawer: false });
        else stop(getState().currentId);
      }
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, []);
}

function useNarrow(): boolean {
  const query = useRef(matchMedia("(max-width: 820px)")).current;
  const [narrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const listen = (): void => setNarrow(query.matches);
    query.addEventListener("change", listen);
    return () => query.removeEventListener("change", listen);
  }, []);
  return narrow;
}

function Toast(): JSX.Element {
  const toast = useStore((s) => s.toast);
  return (
    <div class="toasts" role="status">
      {toast && (
        <div class="toast">
          <span>{toast.text}</span>
          {toast.undo && (
            <button
              type="button"
              class="button"
              onClick={() => {
                toast.undo?.();
                closeToast();
              }}
            >
              Undo
            </button>
          )}
        </div>
      )}
    </div>
  );
}

export function App(): JSX.Element {
  const dialog = useStore((s) => s.dialog);
  const drawer = useStore((s) => s.drawer);
  const title = useStore((s) => currentOf(s)?.title);
  const narrow = useNarrow();
  const sidebar = useRef<HTMLElement>(null);
  useShortcuts();
  useEffect(() => {
    document.title = title ? `${title} · Ingle` : "Ingle";
  }, [title]);
  const shown = useRef(false);
  useEffect(() => {
    if (shown.current === drawer) return;
    shown.current = drawer;
    if (narrow && drawer) sidebar.current?.querySelector<HTMLElement>("button")?.focus();
    else if (narrow) document.querySelector<HTMLElement>(".top button")?.focus({ preventScroll: true });
  }, [drawer]);

  return (
    <div class={drawer ? "page drawer-open" : "page"}>
      <aside ref={sidebar} class="side" aria-label="Conversations and theme" inert={narrow && !drawer}>
        <Sidebar />
      </aside>
      {narrow && drawer && <div class="shade" onClick={() => update({ drawer: false })} />}
      <main inert={narrow && drawer}>
        <Header />
        <Thread />
        <Composer />
      </main>
      <Toast />
      <div class="sr-only" role="log" aria-live="polite" aria-label="Answer as it is written" ref={setRegion} />
      {dialog === "settings" && <Settings />}
      {dialog === "key" && <KeyDialog />}
    </div>
  );
}
