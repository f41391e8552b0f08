/** Surveys a data set, and reads its samples. A new question cancels the one before. */
import { useEffect, useState } from "preact/hooks";
import type {
  DataQuestion,
  SamplesQuestion,
  SampleView,
  Survey,
  SurveyReply,
} from "../../../../src/server/ui/data/dataApi.ts";
import { ApiProblem, postLines } from "../../api.ts";

export type PictureLimit = Extract<SurveyReply, { kind: "pictures" }>["pictures"];

export interface Surveyed {
  survey?: Survey;
  /** The first samples, which come before the counts. */
  samples?: SampleView[];
  /** The option that limits the model's pictures, with its value. */
  pictures?: PictureLimit;
  isDone: boolean;
  problem?: unknown;
}

export function useSurvey(question: DataQuestion | undefined): Surveyed {
  const [surveyed, setSurveyed] = useState<Surveyed>({ isDone: false });
  useEffect(() => {
    setSurveyed({ isDone: false });
    if (!question) return;
    const cancel = new AbortController();
    const take = (reply: SurveyReply): void => setSurveyed((before) => withReply(before, reply));
    postLines("data/survey", question, take, cancel.signal).catch((problem: unknown) => {
      if (!cancel.signal.aborted) setSurveyed({ isDone: true, problem });
    });
    return () => cancel.abort();
  }, [JSON.stringify(question)]);
  return surveyed;
}

function withReply(before: Surveyed, reply: SurveyReply): Surveyed {
  switch (reply.kind) {
    case "pictures":
      return { ...before, pictures: reply.pictures };
    case "samples":
      return { ...before, samples: reply.samples };
    case "progress":
      return { ...before, survey: reply.survey };
    case "end":
      return { ...before, survey: reply.survey, isDone: true };
    case "problem":
      return { isDone: true, problem: problemOf(reply) };
  }
}

/** Returns the samples from a place on; undefined until they are read. */
export function useSamples(question: SamplesQuestion | undefined): {
  samples?: SampleView[];
  problem?: unknown;
} {
  const [read, setRead] = useState<{ samples?: SampleView[]; problem?: unknown }>({});
  useEffect(() => {
    setRead({});
    if (!question) return;
    const cancel = new AbortController();
    const take = (reply: SurveyReply): void => {
      if (reply.kind === "samples") setRead({ samples: reply.samples });
      if (reply.kind === "problem") setRead({ problem: problemOf(reply) });
    };
    postLines("data/samples", question, take, cancel.signal).catch((problem: unknown) => {
      if (!cancel.signal.aborted) setRead({ problem });
    });
    return () => cancel.abort();
  }, [JSON.stringify(question)]);
  return read;
}

function problemOf({ error, fix }: { error: string; fix?: string }): ApiProblem {
  return new ApiProblem(error, { fix: fix === undefined ? [] : fix.split("\n"), status: 400 });
}
