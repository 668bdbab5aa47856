// Code in colours, as elements: the tree that highlight.js makes is walked, its HTML is not used.
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import lua from "highlight.js/lib/languages/lua";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import php from "highlight.js/lib/languages/php";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import type { ComponentChildren } from "preact";

const LANGUAGES = {
  bash, c, cpp, csharp, css, diff, go, ini, java, javascript, json, kotlin, lua, makefile, markdown, php, python, ruby, rust, shell,
  sql, swift, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

const LONGEST = 40_000; // characters; longer code stays plain, and the page quick

interface Node {
  scope?: string;
  children: (Node | string)[];
}

export const languageName = (info: string): string => /^[\w+#.-]{1,24}/.exec(info.trim())?.[0]?.toLowerCase() ?? "";

export function highlight(code: string, language: string): ComponentChildren {
  if (code.length > LONGEST || !hljs.getLanguage(language)) return code;
  // `_emitter` is in the library's types but not in its manual; the version is pinned, and a test looks at the colours.
  const { rootNode } = hljs.highlight(code, { language, ignoreIllegals: true })._emitter as unknown as { rootNode: Node };
  return render(rootNode.children);
}

function render(nodes: (Node | string)[]): ComponentChildren {
  return nodes.map((node, at) =>
    typeof node === "string" ? node : <span key={at} class={node.scope ? `hl-${node.scope.split(".")[0]}` : undefined}>{render(node.children)}</span>,
  );
}
