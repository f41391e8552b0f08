/** Least memory by hd_num and max_length, as a table whose cells choose their sizes. */
import { formatBytes, formatCount } from "../../lib/format.ts";
import { cellKey, useSizes } from "./usePlan.ts";

interface SizesProps {
  options: Record<string, unknown>;
  sizes: { hdNums: readonly number[]; maxLengths: readonly number[] };
  limitBytes: number | undefined;
  chosen: { hdNum: number; maxLength: number };
  choose: (sizes: { hdNum: number; maxLength: number }) => void;
}

export function SizesTable({ options, sizes, limitBytes, chosen, choose }: SizesProps) {
  const { cells, isBusy } = useSizes(options);
  return (
    <section class="panel" aria-busy={isBusy}>
      <h2>What fits: hd_num and max_length</h2>
      <p class="muted">
        Least memory at each pair of sizes, with the leanest policy. Choose a cell to plan for it.
      </p>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, also by keyboard. */}
      <section class="scroll-x" tabIndex={0} aria-label="Table of sizes">
        <table class="plan-sizes">
          <thead>
            <tr>
              <th scope="col">hd_num</th>
              {sizes.maxLengths.map((maxLength) => (
                <th scope="col" class="number" key={maxLength}>
                  {formatCount(maxLength)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {sizes.hdNums.map((hdNum) => (
              <tr key={hdNum}>
                <th scope="row">{hdNum}</th>
                {sizes.maxLengths.map((maxLength) => {
                  const isChosen = chosen.hdNum === hdNum && chosen.maxLength === maxLength;
                  const bytes = cells.get(cellKey({ hdNum, maxLength }));
                  return (
                    <td key={maxLength}>
                      <Cell
                        {...{ hdNum, maxLength, bytes, limitBytes, isChosen }}
                        choose={() => choose({ hdNum, maxLength })}
                      />
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <p class="plan-key">
        <span class="plan-fits">fits</span> <span class="plan-too-large">does not fit</span>{" "}
        <span class="muted">–: a picture of that many tiles alone is longer</span>
      </p>
    </section>
  );
}

interface CellProps {
  hdNum: number;
  maxLength: number;
  /** Undefined as long as it is not planned; null if a picture is too long. */
  bytes: number | null | undefined;
  limitBytes: number | undefined;
  isChosen: boolean;
  choose: () => void;
}

function Cell({ hdNum, maxLength, bytes, limitBytes, isChosen, choose }: CellProps) {
  if (bytes === undefined) return <span class="muted">…</span>;
  if (bytes === null) return <span class="muted">–</span>;
  const fits = limitBytes === undefined || bytes <= limitBytes;
  const name = `hd_num ${hdNum}, max_length ${formatCount(maxLength)}: ${formatBytes(bytes)}, ${fits ? "fits" : "does not fit"}`;
  return (
    <button
      type="button"
      class={fits ? "plan-fits" : "plan-too-large"}
      aria-pressed={isChosen}
      aria-label={name}
      onClick={choose}
    >
      {formatBytes(bytes)}
    </button>
  );
}
