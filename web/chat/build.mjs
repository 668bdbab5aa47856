// Builds the page: node build.mjs [FOLDER]. Same sources and package-lock.json, same bytes: a test compares.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../../src/ingle/server/static"));
const SCRIPT_LIMIT_BYTES = 150 * 1024; // gzipped, all scripts together

process.chdir(here);
mkdirSync(out, { recursive: true });
await build({
  absWorkingDir: here, // esbuild remembers the folder in which it was started
  entryPoints: { app: "src/main.tsx", theme: "src/early.ts", style: "src/style/index.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // the licences are in NOTICE.txt
  charset: "utf8",
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) cpSync(join("src", name), join(out, name));

const bundled = Object.keys(JSON.parse(readFileSync("package.json", "utf8")).dependencies).sort();
const notices = bundled.map((name) => {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = ["LICENSE", "LICENSE.md", "LICENSE.txt"].find((candidate) => {
    try {
      return readFileSync(join(folder, candidate));
    } catch {
      return false;
    }
  });
  if (!file) throw new Error(`${name} has no licence file`);
  const text = readFileSync(join(folder, file), "utf8").replaceAll("\r\n", "\n").trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(
  join(out, "NOTICE.txt"),
  `app.js is built from web/chat/ of Ingle (MIT) and holds these libraries:\n\n${notices.join(`\n${"-".repeat(80)}\n\n`)}`,
);

const size = ["app.js", "theme.js"].reduce((sum, name) => sum + gzipSync(readFileSync(join(out, name)), { level: 9 }).length, 0);
console.log(`scripts: ${(size / 1024).toFixed(1)} KiB gzipped, in ${out}`);
if (size > SCRIPT_LIMIT_BYTES) throw new Error(`the scripts may have ${SCRIPT_LIMIT_BYTES} bytes gzipped, and have ${size}`);
