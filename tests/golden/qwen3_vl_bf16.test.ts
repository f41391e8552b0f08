/** Qwen3-VL in bfloat16 is as near to float32 as the official code in bfloat16 is. */
import { describeGoldenBf16 } from "../helpers/goldenBf16.ts";

describeGoldenBf16("qwen3_vl", 912);
