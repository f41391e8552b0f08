/** InternVL answers with the official ids, alone and in a server beside others. */
import { describeGoldenAnswers } from "../helpers/goldenAnswers.ts";

describeGoldenAnswers("internvl_hf", 924);
