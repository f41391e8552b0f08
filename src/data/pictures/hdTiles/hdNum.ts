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
  schema: count.default(USUAL_TILES).meta({
    help: "Maximum number of tiles of 336 x 336 pixels that a picture is scaled to: 16 gives up to 2,653 tokens, 25 up to 4,057, 55 up to 8,737.",
    advice: `${OFFICIAL_DEFAULT} ${ADVICE}`,
  }),
  help: {
    plan: "Largest number of tiles of a picture. Default: 16",
    init: "Maximum number of tiles of a picture. Default: 16, or the next smaller of 9, 4 and 1 that fits.",
  },
  inWords: "--hd-num tiles",
  lower: "a lower --hd-num for fewer image tiles",
  *below(hdNum: number) {
    for (let tiles = hdNum - 1; tiles >= 1; tiles--) yield tiles;
  },
  range: { least: 1, most: 4096 },
  usual: [4, 9, 16, 25, 36, 55],
  smaller: [9, 4, 1],
} as const;
