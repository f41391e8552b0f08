/**
 * The thread that plans, in the planner's process. It looks for messages during a search too, so that a newer
 * question need not wait for an older one.
 */
import { parentPort, receiveMessageOnPort } from "node:worker_threads";
import { messageOf, UserError } from "../../../errors.ts";
import type { HelperMessage, HelperReply } from "../helper/helperProcess.ts";
import { openDesk } from "./desk.ts";
import type { PlanQuestion, PlanReply } from "./planApi.ts";
import { type Asking, type Memory, STEPS } from "./planSteps.ts";
import { warmTools } from "./warmPlanners.ts";

/** A question with the name of its route. */
export interface PlanAsk {
  asking: Asking;
  question: PlanQuestion;
}

const port = parentPort!;
const post = (message: HelperReply): void => port.postMessage(message);
const desk = openDesk({
  look() {
    for (let next = receiveMessageOnPort(port); next; next = receiveMessageOnPort(port)) take(next.message);
  },
  done: (id) => post({ id, done: true }),
  failed(id, cause) {
    if (!(cause instanceof UserError)) return post({ id, done: true, failed: messageOf(cause) });
    const { message: error, fix } = cause;
    const reply: PlanReply = { kind: "problem", error, ...(fix !== undefined && { fix }) };
    post({ id, reply });
    post({ id, done: true });
  },
});
const memory: Memory = { tools: warmTools(desk.pause), found: new Map() };
let isWorking = false;

port.on("message", (message: HelperMessage) => {
  take(message);
  if (!isWorking) setImmediate(work);
  isWorking = true;
});

function take(message: HelperMessage): void {
  const { id } = message;
  if ("cancel" in message) desk.cancel(id);
  else {
    const { asking, question } = message.ask as PlanAsk;
    const steps = STEPS[asking](question, memory, (reply) => post({ id, reply }));
    desk.add(id, steps);
  }
}

/** Does a step, then lets replies leave. */
function work(): void {
  isWorking = desk.work();
  if (isWorking) setImmediate(work);
}
