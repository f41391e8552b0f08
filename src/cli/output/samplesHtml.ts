/**
 * Writes samples as a self-contained page: their pictures, what the model is given, and what it learns to
 * say, in three colours.
 */
import type { Span } from "../../data/samples/explain.ts";
import { plural } from "../../errors.ts";
import { escaped, htmlPage } from "./page.ts";
import { PICTURES_STYLE, picturesHtml, type ShownPicture } from "./shownPictures.ts";

export interface ShownSample {
  /** File and place of the sample. */
  title: string;
  spans: Span[];
  pictures: ShownPicture[];
}

const STYLE = `${PICTURES_STYLE}
:root { --prompt: light-dark(#5b6673, #9aa6b4); --picture: light-dark(#7b3fb5, #c79bf0); --answer: light-dark(#0b6b3a, #7fdca9) }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--edge); border-radius: 6px; padding: .8rem }
.prompt { color: var(--prompt) } .picture { color: var(--picture); font-weight: 600 } .answer { color: var(--answer); font-weight: 600 }`;

const LEGEND = { prompt: "given to the model", picture: "a picture's place", answer: "learned" } as const;

export function samplesHtml(samples: ShownSample[]): string {
  const legend = Object.entries(LEGEND).map(([kind, text]) => `<span class="${kind}">${text}</span>`);
  const title = `What the model reads: ${plural(samples.length, "sample")}`;
  const body = [`<h1>${title}</h1>`, `<p>${legend.join(" · ")}</p>`, ...samples.map(sampleHtml)].join("\n");
  return htmlPage({ title, style: STYLE, body });
}

function sampleHtml({ title, spans, pictures }: ShownSample): string {
  const body = spans.map(({ kind, text }) => `<span class="${kind}">${escaped(text)}</span>`).join("");
  return `<section><h2>${escaped(title)}</h2>${picturesHtml(pictures)}<pre>${body}</pre></section>`;
}
