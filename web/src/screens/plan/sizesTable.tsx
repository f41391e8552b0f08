/** Least memory by limit of pictures and max_length, as a table whose cells choose their sizes. */
import type { PictureChoice } from "../../../../src/server/ui/plan/planApi.ts";
import { formatBytes, formatCount } from "../../lib/format.ts";
import { cellKey, useSizes } from "./usePlan.ts";

interface SizesProps {
  options: Record<string, unknown>;
  /** The option that limits the model's pictures. */
  pictures: PictureChoice;
  maxLengths: readonly number[];
  limitBytes: number | undefined;
  chosen: Sizes;
  choose: (sizes: Sizes) => void;
}

interface Sizes {
  pictureLimit: number;
  maxLength: number;
}

export function SizesTable({ options, pictures, maxLengths, limitBytes, chosen, choose }: SizesProps) {
  const { cells, isBusy } = useSizes(options, pictures.option);
  return (
    <section class="panel" aria-busy={isBusy}>
      <h2>What fits: {pictures.option} and max_length</h2>
      <p class="muted">
        Least memory at each pair of sizes, with the leanest policy. Choose a cell to plan for it.
      </p>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, also by keyboard. */}
      <section class="scroll-x" tabIndex={0} aria-label="Table of sizes">
        <table class="plan-sizes">
          <thead>
            <tr>
              <th scope="col">{pictures.option}</th>
              {maxLengths.map((maxLength) => (
                <th scope="col" class="number" key={maxLength}>
                  {formatCount(maxLength)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {pictures.usual.map((pictureLimit) => (
              <tr key={pictureLimit}>
                <th scope="row">{formatCount(pictureLimit)}</th>
                {maxLengths.map((maxLength) => {
                  const sizes = { pictureLimit, maxLength };
                  const isChosen = cellKey(chosen) === cellKey(sizes);
                  const bytes = cells.get(cellKey(sizes));
                  return (
                    <td key={maxLength}>
                      <Cell
                        {...{ ...sizes, option: pictures.option, bytes, limitBytes, isChosen }}
                        choose={() => choose(sizes)}
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
        <span class="muted">–: a picture of that many {pictures.unit} alone is longer</span>
      </p>
    </section>
  );
}

interface CellProps extends Sizes {
  option: string;
  /** Undefined as long as it is not planned; null if a picture is too long. */
  bytes: number | null | undefined;
  limitBytes: number | undefined;
  isChosen: boolean;
  choose: () => void;
}

function Cell({ option, pictureLimit, maxLength, bytes, limitBytes, isChosen, choose }: CellProps) {
  if (bytes === undefined) return <span class="muted">…</span>;
  if (bytes === null) return <span class="muted">–</span>;
  const fits = limitBytes === undefined || bytes <= limitBytes;
  const sizes = `${option} ${formatCount(pictureLimit)}, max_length ${formatCount(maxLength)}`;
  const name = `${sizes}: ${formatBytes(bytes)}, ${fits ? "fits" : "does not fit"}`;
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
