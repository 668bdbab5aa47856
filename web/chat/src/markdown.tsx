// Markdown to elements. Nothing here makes HTML out of text: a model's answer becomes text nodes and the few elements below,
// so it cannot run a script, load an image or bring a style. Tags in it are shown as they were written.
import { marked, type MarkedToken, type Token, type Tokens } from "marked";
import type { ComponentChildren, JSX } from "preact";
import { useMemo, useRef } from "preact/hooks";
import { CodeBlock } from "./view/CodeBlock";
import { Icon } from "./view/Icon";

const DEEPEST = 24; // quotes in lists in quotes: beyond this, plain text
const OPTIONS = { gfm: true, breaks: false };
const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", ndash: "–", mdash: "—", hellip: "…", copy: "©", times: "×", deg: "°" };

/** An address that a link may have, or null. */
export function safeHref(href: string): string | null {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null; // relative: it would lead into this server
  }
}

function decode(text: string): string {
  return text.replace(/&(#x[\da-f]{1,6}|#\d{1,7}|[a-z]{2,6});/gi, (whole, name: string) => {
    if (name[0] !== "#") return ENTITIES[name] ?? whole;
    const code = name[1]?.toLowerCase() === "x" ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

function Link({ href, children }: { href: string; children: ComponentChildren }): JSX.Element {
  const safe = safeHref(href);
  if (!safe) return <>{children}</>;
  return (
    <a href={safe} title={safe} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function inlines(tokens: Token[] | undefined, depth: number): ComponentChildren {
  return tokens?.map((token, at) => inline(token as MarkedToken, at, depth));
}

function inline(token: MarkedToken, key: number, depth: number): ComponentChildren {
  if (depth > DEEPEST) return token.raw;
  switch (token.type) {
    case "strong":
      return <strong key={key}>{inlines(token.tokens, depth + 1)}</strong>;
    case "em":
      return <em key={key}>{inlines(token.tokens, depth + 1)}</em>;
    case "del":
      return <del key={key}>{inlines(token.tokens, depth + 1)}</del>;
    case "codespan":
      return <code key={key}>{token.text}</code>;
    case "br":
      return <br key={key} />;
    case "link":
      return <Link key={key} href={token.href}>{inlines(token.tokens, depth + 1)}</Link>;
    case "image": // a link and no image: a picture's address could carry what was said to whoever owns it
      return (
        <Link key={key} href={token.href}>
          <span class="picture"><Icon name="image" /></span> {decode(token.text) || "image"}
        </Link>
      );
    case "checkbox":
      return <span key={key} class="check" role="img" aria-label={token.checked ? "done" : "to do"}>{token.checked ? "☑" : "☐"} </span>;
    case "html":
      return /^<br\s*\/?>$/i.test(token.raw) ? <br key={key} /> : token.raw;
    case "text":
      return token.tokens ? inlines(token.tokens, depth + 1) : decode(token.text);
    case "escape":
      return token.text;
    default:
      return token.raw;
  }
}

function list(token: Tokens.List, depth: number): JSX.Element {
  const items = token.items.map((item, at) => <li key={at} class={item.task ? "task" : undefined}>{blocks(item.tokens, depth + 1)}</li>);
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function table(token: Tokens.Table): JSX.Element {
  const row = (cells: Tokens.TableCell[], Cell: "th" | "td"): JSX.Element[] =>
    cells.map((cell, at) => <Cell key={at} class={cell.align ? `align-${cell.align}` : undefined}>{inlines(cell.tokens, 1)}</Cell>);
  return (
    <div class="table" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>{row(token.header, "th")}</tr>
        </thead>
        <tbody>{token.rows.map((cells, at) => <tr key={at}>{row(cells, "td")}</tr>)}</tbody>
      </table>
    </div>
  );
}

function block(token: MarkedToken, depth: number): ComponentChildren {
  if (depth > DEEPEST) return <p>{token.raw}</p>;
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading": {
      const Heading = `h${Math.min(6, token.depth + 2)}` as "h3"; // h1 is the page, h2 the message
      return <Heading>{inlines(token.tokens, depth + 1)}</Heading>;
    }
    case "code":
      return <CodeBlock code={token.text} language={token.lang ?? ""} />;
    case "blockquote":
      return <blockquote>{blocks(token.tokens, depth + 1)}</blockquote>;
    case "list":
      return list(token, depth);
    case "table":
      return table(token);
    case "hr":
      return <hr />;
    case "paragraph":
      return <p>{inlines(token.tokens, depth + 1)}</p>;
    case "html":
      return <p class="raw">{token.raw.trim()}</p>;
    default:
      return inline(token, 0, depth);
  }
}

function blocks(tokens: Token[], depth: number): ComponentChildren {
  return tokens.map((token, at) => <Block key={at} token={token as MarkedToken} depth={depth} />);
}

/** Drawn again only when its token is new: of a streamed answer, the last two blocks. */
function Block({ token, depth }: { token: MarkedToken; depth: number }): JSX.Element {
  return useMemo(() => <>{block(token, depth)}</>, [token, depth]);
}

function lex(text: string): Token[] {
  try {
    return marked.lexer(text, OPTIONS);
  } catch {
    return [{ type: "code", raw: text, text, lang: "" } as Tokens.Code]; // nested beyond what the parser bears
  }
}

/** Tokens of a growing text. All but the last two blocks are final, and are not read again until the text is whole. */
function useTokens(text: string, ended: boolean): Token[] {
  const before = useRef<{ text: string; tokens: Token[] }>({ text: "", tokens: [] });
  return useMemo(() => {
    const { text: old, tokens: known } = before.current;
    const final = !ended && text.startsWith(old) ? known.slice(0, -2) : [];
    const length = final.reduce((sum, token) => sum + token.raw.length, 0);
    // marked rewrites line ends and tabs; where lengths then differ, everything is read again
    const same = final.map((token) => token.raw).join("") === text.slice(0, length);
    const tokens = same ? [...final, ...lex(text.slice(length))] : lex(text);
    before.current = { text, tokens };
    return tokens;
  }, [text, ended]);
}

export function Markdown({ text, ended }: { text: string; ended: boolean }): JSX.Element {
  return <div class="markdown">{blocks(useTokens(text, ended), 0)}</div>;
}
