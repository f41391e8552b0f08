/** Qwen3-VL learns and merges as in transformers and PEFT, from records of token ids. */
import { describeGoldenTraining } from "../helpers/goldenTraining.ts";

describeGoldenTraining({
  folder: "qwen3_vl",
  image: 912,
  mergedCase: "c2_img",
  learned: "model.language_model.layers.2.mlp.up_proj",
  tower: "model.visual.blocks.0.mlp.linear_fc1",
});
