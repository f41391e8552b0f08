/** A checkpoint and an adapter of InternVL are the same under all names that transformers gives them. */
import { officialName } from "../../src/models/internvl/tensors.ts";
import { describeGoldenNames } from "../helpers/goldenNames.ts";

describeGoldenNames({
  folder: "internvl_hf",
  image: 924,
  knownCase: "c2_img_one_tile",
  officialName,
  olderPrefix: "language_model.model.",
  usesStoredHead: true,
});
