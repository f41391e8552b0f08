/** Qwen2.5-VL answers with the official ids, alone and in a server beside others. */
import { describeGoldenAnswers } from "../helpers/goldenAnswers.ts";

describeGoldenAnswers("qwen2_5_vl", 912);
