import type { PictureLimit } from "../../../data/pictures/pictureLimit.ts";
import type { PictureChoice } from "./planApi.ts";

/** Returns what a page shows of the option that limits a model's pictures. */
export function pictureChoice({ option, unit, default: usually, steps, usual }: PictureLimit): PictureChoice {
  return { option, unit, default: usually, steps: [...steps], usual: [...usual] };
}
