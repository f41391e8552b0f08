/** Screen "Plan": what fits a card, as sliders and choices move. */
import { useState } from "preact/hooks";
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { getJson } from "../../api.ts";
import { Loading, Problem } from "../../parts/states.tsx";
import { useLoaded } from "../../parts/useLoaded.ts";
import { route, setQuery } from "../../router.ts";
import { PlanAnswer } from "./answer.tsx";
import { type Asked, askedFrom, optionsOf, queryOf } from "./asked.ts";
import { PlanControls } from "./controls.tsx";
import "./plan.css";
import { SizesTable } from "./sizesTable.tsx";
import { usePlan } from "./usePlan.ts";

export function Plan() {
  const loaded = useLoaded((signal) => getJson<PlanChoices>("plan/choices", {}, signal), []);
  return (
    <>
      <div class="screen-head">
        <h1>Plan</h1>
        <p class="muted">What fits, before anything is downloaded or trained.</p>
      </div>
      {loaded.value ? (
        <Planning choices={loaded.value} />
      ) : loaded.state === "failed" ? (
        <Problem of={loaded.problem} retry={loaded.reload} />
      ) : (
        <Loading what="the cards" />
      )}
    </>
  );
}

function Planning({ choices }: { choices: PlanChoices }) {
  const [asked, setAsked] = useState(() => askedFrom(route.value.query, choices));
  const change = (changed: Partial<Asked>): void => {
    const next = { ...asked, ...changed };
    setAsked(next);
    setQuery(queryOf(next, choices));
  };
  const options = optionsOf(asked);
  const planned = usePlan(options);
  const { pictures = choices.pictures } = planned;
  return (
    <div class="plan-screen">
      <PlanControls {...{ asked, choices, pictures, change }} />
      <div class="stack">
        <PlanAnswer planned={planned} />
        <SizesTable
          options={options}
          pictures={pictures}
          maxLengths={choices.maxLengths}
          limitBytes={planned.plan?.limitBytes}
          chosen={{
            pictureLimit: asked.limits[pictures.option] ?? pictures.default,
            maxLength: asked.maxLength,
          }}
          choose={({ pictureLimit, maxLength }) =>
            change({ limits: { [pictures.option]: pictureLimit }, maxLength })
          }
        />
      </div>
    </div>
  );
}
