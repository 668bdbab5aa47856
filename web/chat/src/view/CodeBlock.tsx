import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { highlight, languageName } from "../highlight";
import { CopyButton } from "./CopyButton";

export function CodeBlock({ code, language: info }: { code: string; language: string }): JSX.Element {
  const language = languageName(info);
  const coloured = useMemo(() => highlight(code, language), [code, language]);
  return (
    <div class="code">
      <div class="code-head">
        <span>{language || "text"}</span>
        <CopyButton text={code} label="Copy code" />
      </div>
      <pre tabIndex={0} role="region" aria-label={language ? `Code in ${language}` : "Code"}>
        <code>{coloured}</code>
      </pre>
    </div>
  );
}
