/** Several runs beside each other, or the trials of a sweep. */
import { Empty } from "../../parts/states.tsx";
import { hrefOf, route } from "../../router.ts";
import { ComparedRuns } from "./comparedRuns.tsx";
import { Sweep } from "./sweep.tsx";
import "./compare.css";

/** More curves than this cannot be told apart, and the server follows at most 64. */
const MOST_RUNS = 24;

export function Compare() {
  const { query } = route.value;
  const sweep = query.get("sweep");
  if (sweep) return <Sweep key={sweep} id={sweep} />;
  const ids = [...new Set((query.get("runs") ?? "").split(",").filter(Boolean))];
  if (ids.length === 0)
    return (
      <Empty>
        Choose runs in the <a href={hrefOf("runs")}>list of runs</a>, then compare them.
      </Empty>
    );
  return (
    <>
      {ids.length > MOST_RUNS && (
        <p class="muted">
          The first {MOST_RUNS} of {ids.length} chosen runs are shown.
        </p>
      )}
      <ComparedRuns ids={ids.slice(0, MOST_RUNS)} />
    </>
  );
}
