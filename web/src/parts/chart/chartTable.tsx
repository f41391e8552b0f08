/** The numbers of a chart as a table, for those who can't see it or want to read it exactly. */
import { useState } from "preact/hooks";
import { KINDS } from "./kinds.ts";
import { type ChartModel, spreadIndices } from "./model.ts";

const MOST_ROWS = 200;

export function ChartTable({ model }: { model: ChartModel }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Table</summary>
      {isOpen && <Rows model={model} />}
    </details>
  );
}

function Rows({ model }: { model: ChartModel }) {
  const indices = spreadIndices(model.xs.length, MOST_ROWS);
  const { x, y, series, xs, title } = model;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: the table scrolls, also by keyboard.
    <section class="chart-table" tabIndex={0} aria-label={`Table: ${title}`}>
      <table>
        <caption class="muted">
          {title}
          {indices.length < xs.length && `, ${indices.length} of ${xs.length.toLocaleString("en-US")} values`}
        </caption>
        <thead>
          <tr>
            <th scope="col" class="number">
              {x.label}
            </th>
            {series.map(({ label }) => (
              <th key={label} scope="col" class="number">
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {indices.map((index) => (
            <tr key={index}>
              <th scope="row" class="number">
                {KINDS[x.kind].value(xs[index]!)}
              </th>
              {series.map(({ label, values }) => {
                const value = values[index];
                return (
                  <td key={label} class="number">
                    {value === null || value === undefined ? "" : KINDS[y.kind].value(value)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
