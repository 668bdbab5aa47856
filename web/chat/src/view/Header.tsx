import type { JSX } from "preact";
import { chooseModel } from "../connect";
import { currentOf, update, useStore } from "../store";
import { download, fileName, toJson, toMarkdown } from "../transfer";
import { Icon } from "./Icon";
import { Menu } from "./Menu";

function ModelPicker(): JSX.Element | null {
  const models = useStore((s) => s.models);
  const model = useStore((s) => s.model);
  if (!models.length) return null;
  return (
    <label class="model">
      <span class="sr-only">Model</span>
      <select value={model ?? ""} onChange={(event) => chooseModel(event.currentTarget.value)}>
        {models.map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </label>
  );
}

export function Header(): JSX.Element {
  const conversation = useStore(currentOf);
  const drawer = useStore((s) => s.drawer);
  return (
    <header class="top">
      <button type="button" class="icon-button only-narrow" aria-label="Conversations" aria-expanded={drawer} onClick={() => update({ drawer: true })}>
        <Icon name="menu" />
      </button>
      <h1>{conversation?.title ?? "New conversation"}</h1>
      <ModelPicker />
      <button type="button" class="icon-button" aria-label="Settings" title="Settings" onClick={() => update({ dialog: "settings" })}>
        <Icon name="sliders" />
      </button>
      <Menu
        label="This conversation"
        icon="more"
        entries={[
          {
            label: "Export as Markdown",
            disabled: !conversation,
            act: () => conversation && download(fileName(conversation.title, "md"), toMarkdown(conversation), "text/markdown"),
          },
          {
            label: "Export as JSON",
            disabled: !conversation,
            act: () => conversation && download(fileName(conversation.title, "json"), toJson([conversation]), "application/json"),
          },
        ]}
      />
    </header>
  );
}
