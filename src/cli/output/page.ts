/** Writes self-contained pages: one file, no network, light and dark, readable on a phone, and on paper. */
import { printable } from "../../printable.ts";

const STYLE = `
:root { color-scheme: light dark; --paper: light-dark(#ffffff, #14181d); --ink: light-dark(#17202b, #e4e9ef); --quiet: light-dark(#566272, #9aa6b4); --edge: light-dark(#d5dae1, #333c47) }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink) }
h1 { font-size: 1.5rem; line-height: 1.3; margin: .3rem 0 1rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
@media print { :root { color-scheme: only light } body { max-width: none; padding: 0; font-size: 10pt } @page { size: A4; margin: 14mm } }`;

/** Returns a page around a body; `style` is added to the style of all pages. */
export function htmlPage({ title, style, body }: { title: string; style: string; body: string }): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title><style>${STYLE}${style}</style></head>
<body>
${body}
</body></html>
`;
}

/** Returns rows as a table, in a box that scrolls sideways on a narrow phone. */
export function htmlTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const head = headings.map((heading) => `<th scope="col">${escaped(heading)}</th>`).join("");
  const body = rows
    .map((row) => `<tr>${row.map((cell) => `<td>${escaped(cell)}</td>`).join("")}</tr>`)
    .join("\n");
  return `<div class="table"><table><thead><tr>${head}</tr></thead><tbody>\n${body}\n</tbody></table></div>`;
}

/**
 * Escapes a text for HTML, between tags or in quoted attributes, and what steers terminals and writing
 * directions.
 */
export function escaped(text: string): string {
  return printable(text)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
