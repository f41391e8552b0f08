/** Memory by category as stacked bars under a limit, with the same numbers in a table below. */
import type { MemoryPart } from "../../../src/server/ui/plan/planApi.ts";
import { formatBytes } from "../lib/format.ts";
import { CATEGORIES } from "../lib/words.ts";
import type { Tone } from "./chart/model.ts";
import "./memoryBar.css";

export interface Bar {
  name: string;
  parts: readonly MemoryPart[];
  bytes: number;
}

const OUTSIDE: Tone = "muted";

export function MemoryBars({ bars, limitBytes }: { bars: readonly Bar[]; limitBytes?: number }) {
  const most = Math.max(limitBytes ?? 0, ...bars.map(({ bytes }) => bytes)) * 1.04 || 1;
  return (
    <figure class="memory-bars">
      {limitBytes !== undefined && (
        <p class="memory-key muted">
          <span class="memory-key-limit" /> limit, {formatBytes(limitBytes)}
        </p>
      )}
      <div class="memory-plot">
        {bars.map((bar) => (
          <div class="memory-row" key={bar.name}>
            <span class="memory-name">{bar.name}</span>
            <div class="memory-track" role="img" aria-label={spoken(bar, limitBytes)}>
              {bar.parts.map(({ name, title, bytes }) => (
                <span
                  key={name}
                  class={`memory-part tone-${toneOf(name)}`}
                  title={`${title}: ${formatBytes(bytes)}`}
                  style={{ width: `${(100 * bytes) / most}%` }}
                />
              ))}
              {limitBytes !== undefined && (
                <span class="memory-limit" style={{ left: `${(100 * limitBytes) / most}%` }} />
              )}
            </div>
            <span class="memory-total number">{formatBytes(bar.bytes)}</span>
          </div>
        ))}
      </div>
      <MemoryTable bars={bars} limitBytes={limitBytes} />
    </figure>
  );
}

function MemoryTable({ bars, limitBytes }: { bars: readonly Bar[]; limitBytes: number | undefined }) {
  const titles = new Map(bars.flatMap(({ parts }) => parts.map(({ name, title }) => [name, title] as const)));
  const bytesOf = ({ parts }: Bar, name: string): number =>
    parts.find((part) => part.name === name)?.bytes ?? 0;
  const names = [...titles.keys()].toSorted((one, other) => largest(bars, other) - largest(bars, one));
  return (
    <table class="memory-table">
      <thead>
        <tr>
          <th scope="col">Part</th>
          {bars.map(({ name }) => (
            <th scope="col" class="number" key={name}>
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {names.map((name) => (
          <tr key={name}>
            <th scope="row">
              <span class={`swatch tone-${toneOf(name)}`} />
              {titles.get(name)}
            </th>
            {bars.map((bar) => (
              <td class="number" key={bar.name}>
                {bytesOf(bar, name) === 0 ? "–" : formatBytes(bytesOf(bar, name))}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
      <tfoot>
        <tr>
          <th scope="row">{limitBytes === undefined ? "all" : `all, of ${formatBytes(limitBytes)}`}</th>
          {bars.map(({ name, bytes }) => (
            <td class="number" key={name}>
              {formatBytes(bytes)}
            </td>
          ))}
        </tr>
      </tfoot>
    </table>
  );
}

function largest(bars: readonly Bar[], name: string): number {
  return Math.max(...bars.map(({ parts }) => parts.find((part) => part.name === name)?.bytes ?? 0));
}

function toneOf(name: string): Tone {
  return CATEGORIES[name as keyof typeof CATEGORIES]?.tone ?? OUTSIDE;
}

function spoken({ name, bytes, parts }: Bar, limitBytes: number | undefined): string {
  const limit = limitBytes === undefined ? "" : ` of ${formatBytes(limitBytes)}`;
  const list = parts.map((part) => `${part.title} ${formatBytes(part.bytes)}`).join(", ");
  return `${name}: ${formatBytes(bytes)}${limit}. ${list}`;
}
