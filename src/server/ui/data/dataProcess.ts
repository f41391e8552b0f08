/** The process that reads data sets for the page: it parses, counts tokens and draws pictures. */
import { resolveModel } from "../../../checkpoint/folder.ts";
import { DEFAULT_RULES, pictureForm } from "../../../data/pictures/forms.ts";
import { type LimitValues, limitOf } from "../../../data/pictures/limits.ts";
import type { PictureLimit } from "../../../data/pictures/pictureLimit.ts";
import { messageOf, UserError } from "../../../errors.ts";
import { openFamilyFolder, pictureFormOf, readModelConfig, tokenizerOf } from "../../../models/families.ts";
import type { HelperMessage, HelperReply } from "../helper/helperProcess.ts";
import type { DataPicture, DataQuestion, SamplesQuestion, SurveyReply } from "./dataApi.ts";
import type { DataReader } from "./readData.ts";
import { drawnPicture, sampleViews } from "./sampleViews.ts";
import { surveyData } from "./survey.ts";

/** A question with the name of its route. folder: FOLDER of `lorafit ui`. */
export type DataAsk = { folder: string } & (
  | { asking: "survey"; question: DataQuestion }
  | { asking: "samples"; question: SamplesQuestion }
  | { asking: "picture"; question: DataPicture }
);
export type DataReply = SurveyReply | { kind: "picture"; png: Uint8Array };

const cancels = new Map<number, AbortController>();

process.on("disconnect", () => process.exit()); // the server has ended
for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {}); // the server's to handle
process.on("message", (message: HelperMessage) => {
  const { id } = message;
  if ("cancel" in message) {
    cancels.get(id)?.abort();
    return;
  }
  const cancel = new AbortController();
  cancels.set(id, cancel);
  answer(message.ask as DataAsk, (reply) => post({ id, reply }), cancel.signal)
    .then(
      () => post({ id, done: true }),
      (thrown: unknown) => fail(id, thrown),
    )
    .finally(() => cancels.delete(id));
});

function post(message: HelperReply): void {
  process.send?.(message);
}

function fail(id: number, thrown: unknown): void {
  if (!(thrown instanceof UserError)) {
    post({ id, done: true, failed: messageOf(thrown) });
    return;
  }
  const { message: error, fix } = thrown;
  const reply: DataReply = { kind: "problem", error, ...(fix !== undefined && { fix }) };
  post({ id, reply });
  post({ id, done: true });
}

async function answer(ask: DataAsk, send: (reply: DataReply) => void, signal: AbortSignal): Promise<void> {
  const { folder, question } = ask;
  const { file, model, limits } = question;
  const known = model === undefined ? NO_MODEL : await read(model);
  const { limit } = known.form;
  const reader: DataReader = { folder, file, pictureLimit: drawnLimit(limits, limit), ...known };
  if (ask.asking === "survey") {
    const pictures = { option: limit.option, value: reader.pictureLimit, most: limit.mostDrawn };
    send({ kind: "pictures", pictures });
    await surveyData(reader, send, signal);
  } else if (ask.asking === "samples")
    send({ kind: "samples", samples: await sampleViews(reader, ask.question) });
  else {
    const { index, picture } = ask.question;
    send({ kind: "picture", png: await drawnPicture(reader, index, picture) });
  }
}

/** Returns the limit of pictures. Throws UserError for one at which a drawing would take gigabytes. */
function drawnLimit(limits: LimitValues, limit: PictureLimit): number {
  const value = limitOf(limits, limit);
  if (value <= limit.mostDrawn) return value;
  throw new UserError(`${limit.option} ${value} is more than the page draws: at most ${limit.mostDrawn}.`, {
    fix: `Choose ${limit.option} ${limit.mostDrawn} or less.`,
  });
}

type ReadModel = Pick<DataReader, "form" | "tokenizer" | "vocabSize">;

const NO_MODEL: ReadModel = {
  form: pictureForm(DEFAULT_RULES),
  tokenizer: undefined,
  vocabSize: Number.POSITIVE_INFINITY,
};

/** The tokenizer that was read last; reading one takes a while. */
let last: ({ model: string } & ReadModel) | undefined;

async function read(model: string): Promise<ReadModel> {
  if (last?.model !== model) {
    const folder = resolveModel(model);
    const opened = openFamilyFolder(folder);
    try {
      const config = readModelConfig(opened);
      const form = pictureFormOf(config);
      last = { model, form, tokenizer: await tokenizerOf(folder), vocabSize: config.vocab };
    } finally {
      opened.weights.close();
    }
  }
  return last;
}
