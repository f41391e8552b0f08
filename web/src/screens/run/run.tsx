/** One run: its curves, its memory, its answers, and how to have it again. It follows the run while it trains. */
import { useEffect } from "preact/hooks";
import { useRun } from "../../live/runHistory.ts";
import { Loading, Problem } from "../../parts/states.tsx";
import { route } from "../../router.ts";
import { Answers } from "./answers.tsx";
import { Curves } from "./curves.tsx";
import { Checkpoints, Commands, Events } from "./facts.tsx";
import { Head } from "./head.tsx";
import { Memory } from "./memory.tsx";
import { Samples } from "./samples.tsx";
import { Settings } from "./settings.tsx";
import "./run.css";

export function Run() {
  const [id] = route.value.parts;
  if (id === undefined) return <Problem of="This address names no run." />;
  return <RunOf key={id} id={id} />;
}

function RunOf({ id }: { id: string }) {
  const { history, problem } = useRun(id);
  const name = history?.summary.name;
  useEffect(() => {
    if (name !== undefined) document.title = `${name} - lorafit`;
  }, [name]);
  if (!history) return problem ? <Problem of={problem} /> : <Loading what="the run" />;
  return (
    <div class="stack">
      <Head history={history} />
      <Curves history={history} />
      <Memory history={history} />
      {history.answers.length > 0 && <Answers history={history} />}
      <div class="run-columns">
        <div class="stack">
          <Commands history={history} />
          <Checkpoints history={history} />
          <Events history={history} />
        </div>
        <Samples history={history} />
      </div>
      <Settings history={history} />
    </div>
  );
}
