/** The limit of pictures cut into tiles: hd_num, the largest number of tiles. */
import { count } from "../../../options.ts";

const ADVICE = "16 and 25 are usual for training, 55 for reading dense documents.";
const OFFICIAL_DEFAULT =
  "The official script's default of -1 resizes every picture to a small square, which is not what 4KHD was trained on.";

/** Tiles that are usual for training. */
const USUAL_TILES = 16;

export const HD_NUM = {
  option: "hd_num",
  flag: "hd-num",
  key: "hdNum",
  default: USUAL_TILES,
  schema: count.optional().meta({
    help: "Maximum number of tiles that a picture is scaled to, for XComposer2-4KHD and XComposer2.5. Tiles of 4KHD have 336 x 336 pixels: 16 give up to 2,653 tokens, 25 up to 4,057, 55 up to 8,737. Tiles of 2.5 have 560 x 560 pixels: 18 give up to 7,981 tokens. Default: 16, or 18 for XComposer2.5",
    advice: `${OFFICIAL_DEFAULT} ${ADVICE}`,
  }),
  help: {
    plan: "Largest number of tiles of a picture, for XComposer2-4KHD and XComposer2.5. Default: 16, or 18 for XComposer2.5",
    init: "Maximum number of tiles of a picture. Default: 16 (18 for XComposer2.5), or the next smaller of 9, 4 and 1 that fits.",
    serve:
      "Maximum number of tiles of a picture, if the request does not say. Default: 16, or 18 for XComposer2.5",
  },
  unit: "tiles",
  inWords: "--hd-num tiles",
  lower: "a lower --hd-num for fewer image tiles",
  *below(hdNum: number) {
    for (let tiles = hdNum - 1; tiles >= 1; tiles--) yield tiles;
  },
  range: { least: 1, most: 4096 },
  usual: [4, 9, 16, 25, 36, 55],
  steps: [1, 2, 4, 6, 9, 12, 16, 20, 25, 30, 36, 42, 49, 55, 64, 72, 81, 91, 100, 121],
  mostDrawn: 256,
  smaller: [9, 4, 1],
} as const;
