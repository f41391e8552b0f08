/** Histogram of sample lengths, with max_length as a line that mouse, finger and arrow keys move. */
import { useMemo, useRef } from "preact/hooks";
import { formatCount } from "../../lib/format.ts";
import { binsOf, type Lengths, tooLong } from "./lengths.ts";

interface HistogramProps {
  lengths: Lengths;
  maxLength: number;
  change: (maxLength: number) => void;
}

/** Units of the drawing; it is scaled to its box. */
const WIDTH = 800;
const HEIGHT = 170;
const KEY_SHARE = 0.01;

export function Histogram({ lengths, maxLength, change }: HistogramProps) {
  const longest = lengths.at(-1)?.[0] ?? 1;
  const most = Math.round(Math.max(longest, maxLength) * 1.06);
  const bins = useMemo(() => binsOf(lengths, most), [lengths, most]);
  const highest = Math.max(1, ...bins.map(({ samples }) => samples));
  const end = bins.at(-1)?.to ?? 1;
  const x = (tokens: number): number => (WIDTH * tokens) / end;
  const beyond = tooLong(lengths, maxLength);
  return (
    <figure class="histogram">
      <figcaption class="histogram-head">
        <span>Samples by tokens</span>
        <output class={beyond > 0 ? "tone-bad" : "tone-good"}>
          {beyond === 0
            ? `All samples fit max_length ${formatCount(maxLength)}.`
            : `${formatCount(beyond)} ${beyond === 1 ? "sample" : "samples"} would not fit max_length ${formatCount(maxLength)}.`}
        </output>
      </figcaption>
      <div class="histogram-plot">
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
          {bins.map(({ from, to, samples }) => {
            const height = samples === 0 ? 0 : Math.max(1.5, (HEIGHT * samples) / highest);
            return (
              <rect
                key={from}
                class={from > maxLength ? "histogram-beyond" : "histogram-bar"}
                x={x(from)}
                width={Math.max(1, x(to) - x(from) - 1)}
                y={HEIGHT - height}
                height={height}
              >
                <title>{`${formatCount(from)} to ${formatCount(to - 1)} tokens: ${formatCount(samples)}`}</title>
              </rect>
            );
          })}
        </svg>
        <Line maxLength={maxLength} end={end} beyond={beyond} change={change} />
      </div>
      <div class="histogram-axis muted" aria-hidden="true">
        {[0, 0.25, 0.5, 0.75, 1].map((share) => (
          <span key={share}>{formatCount(share * end)}</span>
        ))}
      </div>
    </figure>
  );
}

interface LineProps {
  maxLength: number;
  end: number;
  beyond: number;
  change: (maxLength: number) => void;
}

function Line({ maxLength, end, beyond, change }: LineProps) {
  const isHeld = useRef(false);
  const follow = (event: PointerEvent): void => {
    const box = (event.currentTarget as HTMLElement).parentElement!.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    change(Math.max(1, Math.round(share * end)));
  };
  const press = (event: KeyboardEvent): void => {
    const to = movedLength(event, maxLength, end);
    if (to === undefined) return;
    event.preventDefault();
    change(to);
  };
  return (
    <div
      class="histogram-line"
      role="slider"
      tabIndex={0}
      aria-label="max_length"
      aria-valuemin={1}
      aria-valuemax={end}
      aria-valuenow={maxLength}
      aria-valuetext={`${formatCount(maxLength)} tokens, ${formatCount(beyond)} samples would not fit`}
      style={{ left: `${(100 * maxLength) / end}%` }}
      onKeyDown={press}
      onPointerDown={(event) => {
        isHeld.current = true;
        event.currentTarget.setPointerCapture(event.pointerId);
      }}
      onPointerMove={(event) => isHeld.current && follow(event)}
      onPointerUp={() => {
        isHeld.current = false;
      }}
    />
  );
}

function movedLength({ key, shiftKey }: KeyboardEvent, at: number, end: number): number | undefined {
  const stride = shiftKey ? 1 : Math.max(1, Math.round(KEY_SHARE * end));
  const moves: Record<string, number> = {
    ArrowLeft: at - stride,
    ArrowDown: at - stride,
    ArrowRight: at + stride,
    ArrowUp: at + stride,
    PageDown: at - 10 * stride,
    PageUp: at + 10 * stride,
    Home: 1,
    End: end,
  };
  const to = moves[key];
  return to === undefined ? undefined : Math.max(1, Math.min(end, to));
}
