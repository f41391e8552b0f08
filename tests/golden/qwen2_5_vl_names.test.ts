/** A checkpoint and an adapter of Qwen2.5-VL are the same under all names that transformers gives them. */
import { officialName } from "../../src/models/qwen2_5_vl/tensors.ts";
import { describeGoldenNames } from "../helpers/goldenNames.ts";

describeGoldenNames({
  folder: "qwen2_5_vl",
  image: 912,
  knownCase: "c2_img",
  officialName,
  olderPrefix: "model.",
});
