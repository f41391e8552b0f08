/** Chooses what curves are drawn over; the choice stands in the address. */
import { X_AXES, type XAxis } from "../lib/xAxis.ts";
import { setQuery } from "../router.ts";

export function XAxisChoice({ axis }: { axis: XAxis }) {
  return (
    <label class="row">
      Over
      <select
        aria-label="Over"
        value={axis}
        onChange={(event) =>
          setQuery({ x: event.currentTarget.value === "step" ? "" : event.currentTarget.value })
        }
      >
        {Object.entries(X_AXES).map(([name, { label }]) => (
          <option key={name} value={name}>
            {label === "step" ? "steps" : label}
          </option>
        ))}
      </select>
    </label>
  );
}
