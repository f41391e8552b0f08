/** A slider for how many steps a loss curve is smoothed over. */
import { formatCount } from "../lib/format.ts";

interface SmoothingProps {
  /** Place of the slider, from 0 to 100. */
  position: number;
  /** Steps that the place stands for; 1: no smoothing. */
  span: number;
  choose: (position: number) => void;
}

export function Smoothing({ position, span, choose }: SmoothingProps) {
  return (
    <label class="row smoothing">
      Smoothing
      <input
        type="range"
        min={0}
        max={100}
        value={position}
        aria-valuetext={span === 1 ? "off" : `${span} steps`}
        onInput={(event) => choose(Number(event.currentTarget.value))}
      />
      <output class="number">{span === 1 ? "off" : `${formatCount(span)} steps`}</output>
    </label>
  );
}
