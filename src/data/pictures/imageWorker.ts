/**
 * The worker thread of the image pool. It loads one picture for each message, and moves the arrays without a
 * copy.
 */
import { parentPort, workerData } from "node:worker_threads";
import { UserError } from "../../errors.ts";
import type { ImageCompat } from "./decode.ts";
import { type LoadedImage, loadHdImage } from "./image.ts";

export interface ImageSettings {
  compat: ImageCompat;
  maxPixels?: number | undefined;
}

export interface ImageRequest {
  path: string;
  hdNum: number;
}

/** A reply. A UserError loses its class between threads, so it is sent in parts. */
export type ImageReply =
  | { kind: "image"; image: LoadedImage }
  | { kind: "user error"; message: string; remedy: { fix?: string } }
  | { kind: "defect"; error: unknown };

const settings = workerData as ImageSettings;

parentPort?.on("message", async ({ path, hdNum }: ImageRequest) => {
  const reply = await load(path, hdNum);
  const handedOver = reply.kind === "image" ? [reply.image.pixels.buffer, reply.image.globalView.buffer] : [];
  parentPort?.postMessage(reply, handedOver as ArrayBuffer[]);
});

async function load(path: string, hdNum: number): Promise<ImageReply> {
  try {
    return { kind: "image", image: await loadHdImage(path, hdNum, settings.compat, settings) };
  } catch (error) {
    if (!(error instanceof UserError)) return { kind: "defect", error };
    return {
      kind: "user error",
      message: error.message,
      remedy: error.fix === undefined ? {} : { fix: error.fix },
    };
  }
}
