/** Qwen3-VL answers with the official ids, alone and in a server beside others. */
import { describeGoldenAnswers } from "../helpers/goldenAnswers.ts";

describeGoldenAnswers("qwen3_vl", 912);
