/** Routes of the Data screen, whose questions a process of its own answers. */
import { z } from "zod";
import { LIMIT_OPTIONS, openLimits } from "../../../data/pictures/limits.ts";
import { UserError } from "../../../errors.ts";
import { readBody } from "../../http/body.ts";
import { HttpError } from "../../http/httpError.ts";
import type { RouteModule } from "../context.ts";
import { openHelper } from "../helper/helperProcess.ts";
import { streamReplies } from "../helper/streamReplies.ts";
import type { DataFiles } from "./dataApi.ts";
import type { DataAsk, DataReply } from "./dataProcess.ts";
import { findData } from "./findData.ts";

const MOST_SAMPLES = 50;

const place = z.coerce.number().int().nonnegative();
const Limits = z.strictObject(openLimits("plan"));
const Question = z.strictObject({
  file: z.string().min(1),
  model: z.string().min(1).optional(),
  limits: Limits,
});
const Samples = Question.extend({ from: place, count: place.max(MOST_SAMPLES) });
const Picture = Question.extend({ index: place, picture: place });

export const dataRoutes: RouteModule = (app, context) => {
  const { folder } = context;
  const url = new URL("./dataProcess.js", import.meta.url);
  const reader = openHelper<DataAsk, DataReply>(url, "the reader of data sets");
  context.signal.addEventListener("abort", () => reader.close());
  app.get("/api/data/files", async (of) => {
    const files: DataFiles = { ...(await findData(folder)), limits: LIMIT_OPTIONS };
    return of.json(files);
  });
  app.post("/api/data/survey", async (of) => {
    const question = await readBody(of, Question);
    return streamReplies(of, context, reader, { asking: "survey", folder, question });
  });
  app.post("/api/data/samples", async (of) => {
    const question = await readBody(of, Samples);
    return streamReplies(of, context, reader, { asking: "samples", folder, question });
  });
  app.get("/api/data/picture", async (of) => {
    const question = Picture.safeParse(pictureOfQuery(of.req.query()));
    if (!question.success) throw new HttpError(400, "The query names no picture.");
    const ask: DataAsk = { asking: "picture", folder, question: question.data };
    const png = await pictureOf(reader.ask, ask, of.req.raw.signal);
    return of.body(png as Uint8Array<ArrayBuffer>, 200, {
      "Content-Type": "image/png",
      "Cache-Control": "private, max-age=300",
    });
  });
};

/** Gathers the limits of a query, each under its option's name. */
function pictureOfQuery(query: Record<string, string>): object {
  const isLimit = ([name]: [string, string]): boolean => name in Limits.shape;
  const entries = Object.entries(query);
  const limits = entries.filter(isLimit).map(([name, value]) => [name, Number(value)]);
  return {
    ...Object.fromEntries(entries.filter((entry) => !isLimit(entry))),
    limits: Object.fromEntries(limits),
  };
}

async function pictureOf(
  ask: (asked: DataAsk, take: (reply: DataReply) => void, signal?: AbortSignal) => Promise<void>,
  asked: DataAsk,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const replies: DataReply[] = [];
  await ask(asked, (reply) => replies.push(reply), signal);
  const [reply] = replies;
  if (reply?.kind === "picture") return reply.png;
  if (reply?.kind === "problem")
    throw new HttpError(404, reply.error, { ...(reply.fix && { fix: reply.fix }) });
  throw new UserError("The picture was not asked for any more.");
}
