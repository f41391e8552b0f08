/** Asks the planner whenever the options change. The newest question cancels the one before. */
import { useEffect, useRef, useState } from "preact/hooks";
import type {
  OfficialView,
  PictureChoice,
  PlanQuestion,
  PlanReply,
  PlanStage,
  PlanView,
  SizeCell,
} from "../../../../src/server/ui/plan/planApi.ts";
import { ApiProblem, postLines } from "../../api.ts";

export interface Planned {
  pictures?: PictureChoice;
  plan?: PlanView;
  stage?: PlanStage;
  official?: OfficialView;
  ways?: Extract<PlanReply, { kind: "ways" }>["ways"];
  problem?: unknown;
  /** Whether what is shown belongs to an earlier question. */
  isStale: boolean;
  /** Whether the planner still works on this question. */
  isBusy: boolean;
}

/** Returns the plan for the options; undefined options ask nothing. */
export function usePlan(options: Record<string, unknown> | undefined): Planned {
  const [planned, setPlanned] = useState<Planned>({ isStale: true, isBusy: false });
  const shown = useRef<PlanView | undefined>(undefined);
  useEffect(() => {
    if (!options) return;
    const cancel = new AbortController();
    setPlanned((before) => ({ ...before, isStale: true, isBusy: true }));
    const question: PlanQuestion = { options, ...(shown.current && { policy: shown.current.policy }) };
    const take = (reply: PlanReply): void => {
      if (reply.kind === "plan") shown.current = reply.plan;
      setPlanned((before) => withReply(before, reply));
    };
    postLines("plan", question, take, cancel.signal).then(
      () => cancel.signal.aborted || setPlanned((before) => ({ ...before, isBusy: false })),
      (problem: unknown) => {
        if (!cancel.signal.aborted) setPlanned((before) => withProblem(before, problem));
      },
    );
    return () => cancel.abort();
  }, [JSON.stringify(options)]);
  return planned;
}

function withReply(before: Planned, reply: PlanReply): Planned {
  switch (reply.kind) {
    case "plan": {
      const { official, pictures } = before;
      const { plan, stage } = reply;
      return {
        ...{ plan, stage, isStale: false, isBusy: true },
        ...(pictures && { pictures }),
        ...(official && plan.isCard && { official }),
      };
    }
    case "pictures":
      return { ...before, pictures: reply.pictures };
    case "official":
      return { ...before, official: reply.official };
    case "ways":
      return { ...before, ways: reply.ways };
    case "problem":
      return withProblem(before, problemOf(reply));
    default:
      return before;
  }
}

function withProblem({ pictures }: Planned, problem: unknown): Planned {
  return { problem, isStale: false, isBusy: false, ...(pictures && { pictures }) };
}

function problemOf({ error, fix }: { error: string; fix?: string }): ApiProblem {
  return new ApiProblem(error, { fix: fix === undefined ? [] : fix.split("\n"), status: 400 });
}

/** Milliseconds without a change after which the table is planned: the bar above it comes first. */
const PAUSE_MS = 250;

/**
 * Returns the cells of the table of sizes as far as they are known, by `cellKey`. limit: the option that
 * limits pictures.
 */
export function useSizes(
  options: Record<string, unknown>,
  limit: string,
): {
  cells: ReadonlyMap<string, number | null>;
  isBusy: boolean;
} {
  const [cells, setCells] = useState<ReadonlyMap<string, number | null>>(new Map());
  const [isBusy, setBusy] = useState(true);
  const { [limit]: _, max_length: __, ...others } = options;
  useEffect(() => {
    const cancel = new AbortController();
    setBusy(true);
    setCells(new Map());
    const take = (reply: PlanReply): void => {
      if (reply.kind === "cell") setCells((before) => new Map(before).set(cellKey(reply), reply.bytes));
    };
    const timer = setTimeout(() => {
      const done = (): void => void (cancel.signal.aborted || setBusy(false));
      postLines("plan/sizes", { options }, take, cancel.signal).then(done, done);
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      cancel.abort();
    };
  }, [JSON.stringify(others)]);
  return { cells, isBusy };
}

export function cellKey({ pictureLimit, maxLength }: Pick<SizeCell, "pictureLimit" | "maxLength">): string {
  return `${pictureLimit} ${maxLength}`;
}
