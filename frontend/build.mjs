// Builds src/ into ../src/bloomery/web/static, which is committed: users need no Node. `node build.mjs DIR` builds elsewhere.
import { build } from "esbuild";
import { cp, mkdir, readdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../src/bloomery/web/static"));

await mkdir(out, { recursive: true });
for (const name of await readdir(out)) {
  await rm(join(out, name), { recursive: true });
}
await build({
  absWorkingDir: here, // chunk names are hashes of paths, too: the same from every folder
  entryPoints: { app: "src/main.jsx" },
  outdir: out,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  chunkNames: "[name]-[hash]",
  preserveSymlinks: false,
  logLevel: "warning",
});
await cp(join(here, "src/index.html"), join(out, "index.html"));
await cp(join(here, "src/icon.svg"), join(out, "icon.svg"));
