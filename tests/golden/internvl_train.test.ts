/** InternVL learns and merges as in transformers and PEFT, from records of token ids. */
import { describeGoldenTraining } from "../helpers/goldenTraining.ts";

describeGoldenTraining({
  folder: "internvl_hf",
  image: 924,
  mergedCase: "c2_img_one_tile",
  learned: "model.language_model.layers.2.self_attn.q_proj",
  tower: "model.vision_tower.encoder.layer.0.attention.q_proj",
});
