/**
 * The worker thread of the image pool. It loads one picture for each message, and moves the arrays without a
 * copy.
 */
import { parentPort, workerData } from "node:worker_threads";
import { UserError } from "../../errors.ts";
import type { DecodeSettings, LoadedPicture } from "./form.ts";
import { type PictureRules, pictureForm } from "./forms.ts";

export interface ImageSettings extends DecodeSettings {
  /** How the model lays out pictures. */
  rules: PictureRules;
}

export interface ImageRequest {
  path: string;
  limit: number;
}

/** A reply. A UserError loses its class between threads, so it is sent in parts. */
export type ImageReply =
  | { kind: "image"; image: LoadedPicture }
  | { kind: "user error"; message: string; remedy: { fix?: string } }
  | { kind: "defect"; error: unknown };

const { rules, ...settings } = workerData as ImageSettings;
const form = pictureForm(rules);

parentPort?.on("message", async ({ path, limit }: ImageRequest) => {
  const reply = await load(path, limit);
  const arrays = reply.kind === "image" ? Object.values(reply.image).filter(ArrayBuffer.isView) : [];
  parentPort?.postMessage(
    reply,
    arrays.map(({ buffer }) => buffer as ArrayBuffer),
  );
});

async function load(path: string, limit: number): Promise<ImageReply> {
  try {
    return { kind: "image", image: await form.load(path, limit, settings) };
  } catch (error) {
    if (!(error instanceof UserError)) return { kind: "defect", error };
    return {
      kind: "user error",
      message: error.message,
      remedy: error.fix === undefined ? {} : { fix: error.fix },
    };
  }
}
