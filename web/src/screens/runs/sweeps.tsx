/** The sweeps below the folder, each with how far it has come and its best trial. */
import type { SweepSummary } from "../../../../src/server/ui/api.ts";
import { formatAge, formatNumber } from "../../lib/format.ts";
import { scoreName } from "../../lib/scores.ts";
import { trialsOf } from "../../lib/words.ts";
import { nowMs } from "../../live/clock.ts";
import { hrefOf } from "../../router.ts";

export function Sweeps({ sweeps }: { sweeps: readonly SweepSummary[] }) {
  return (
    <section class="sweeps" aria-label="Sweeps">
      <h2>Sweeps</h2>
      <ul>
        {sweeps.map((sweep) => (
          <li key={sweep.id} class="row">
            <a href={hrefOf("compare", [], { sweep: sweep.id })}>{sweep.path}</a>
            <span>
              {sweep.state}, {sweep.strategy}
            </span>
            <span class="muted">{trialsOf(sweep.trials)}</span>
            {sweep.best && (
              <span>
                best: trial {sweep.best.trial}, {scoreName(sweep.metric.name)}{" "}
                {formatNumber(sweep.best.value)}
              </span>
            )}
            <a href={hrefOf("runs", [], { find: `sweep:${sweep.id}` })}>its runs</a>
            <span class="muted">{formatAge(nowMs.value - sweep.updatedAtMs)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}
