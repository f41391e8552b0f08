/** A checkpoint and an adapter of Qwen3-VL are the same under all names that transformers gives them. */
import { describeGoldenNames } from "../helpers/goldenNames.ts";

describeGoldenNames({
  folder: "qwen3_vl",
  image: 912,
  knownCase: "c2_img",
  officialName: (stored) => stored,
  olderPrefix: "model.",
});
