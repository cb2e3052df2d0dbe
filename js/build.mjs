// One ES module and one style sheet: what anywidget loads, from any of its hosts, without a server.
import { build } from "esbuild";

await build({
  entryPoints: ["src/widget.ts", "src/widget.css"],
  outdir: "../skydeck_nb/widget/static",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { "define.amd": "false" }, // UMD dependencies would otherwise register with Jupyter's require.js
  legalComments: "none",
  logLevel: "info",
});
