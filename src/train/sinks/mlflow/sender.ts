/**
 * Sends the records of a spool to an MLflow server beside the run. A server that is down or slow delays
 * nothing: what it does not take stays in the spool, and is tried again later.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../../../errors.ts";
import { type MlflowClient, MlflowRefusal } from "./client.ts";
import type { Parcel, Spool } from "./spool.ts";

/** Waits between calls in milliseconds: while the server takes them, and after failures. */
export interface Pace {
  betweenMs: number;
  firstRetryMs: number;
  mostRetryMs: number;
}

export const PACE: Pace = { betweenMs: 1000, firstRetryMs: 1000, mostRetryMs: 60_000 };

/** Wait for a server that did not take the last call. */
const LAST_TRY_MS = 1000;

export interface SenderOptions {
  client: MlflowClient;
  spool: Spool;
  notice: (text: string) => void;
  pace?: Pace;
}

export class Sender {
  readonly #options: SenderOptions;
  readonly #pace: Pace;
  /** Ends the calls and waits of this process. */
  readonly #stop = new AbortController();
  /** Ends a wait early. */
  readonly #wake = new AbortController();
  #working: Promise<void> | undefined;
  #failures = 0;
  /** Whether the server has refused a call for good. */
  #isRefused = false;
  /** No wait between calls any more: the run has ended. */
  #hurries = false;

  constructor(options: SenderOptions) {
    this.#options = options;
    this.#pace = options.pace ?? PACE;
  }

  /** Sends what the spool holds, beside everything else. */
  send(): void {
    this.#working ??= this.#work().finally(() => {
      this.#working = undefined;
    });
  }

  /**
   * Ends sending. Waits at most so long for what is left, and a moment only for a server that did not take
   * the last call. Returns whether everything is sent.
   */
  async end(mostMs: number): Promise<boolean> {
    this.#hurries = true;
    this.#wake.abort();
    const limitMs = this.#failures === 0 ? mostMs : Math.min(mostMs, LAST_TRY_MS);
    const { signal } = this.#stop;
    await Promise.race([this.#drain(), sleep(limitMs, undefined, { signal })]);
    this.#stop.abort();
    await this.#working;
    return this.#options.spool.unsentBytes === 0;
  }

  async #drain(): Promise<void> {
    const { signal } = this.#stop;
    do {
      this.send();
      await this.#working;
    } while (this.#options.spool.unsentBytes > 0 && this.#failures === 0 && !signal.aborted);
  }

  async #work(): Promise<void> {
    const { spool } = this.#options;
    for (let parcel = await spool.next(); parcel && !this.#stop.signal.aborted; parcel = await spool.next()) {
      const isSent = await this.#deliver(parcel);
      if (this.#hurries) {
        if (isSent) continue;
        return;
      }
      await this.#wait(isSent ? this.#pace.betweenMs : this.#retryMs());
    }
  }

  #retryMs(): number {
    return Math.min(this.#pace.mostRetryMs, this.#pace.firstRetryMs * 2 ** (this.#failures - 1));
  }

  /** Waits, unless the run ends. The wait keeps no process alive. */
  async #wait(ms: number): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, this.#wake.signal]);
    await sleep(ms, undefined, { ref: false, signal }).catch(() => {});
  }

  /** Sends a parcel. Returns whether it need not be sent again. */
  async #deliver(parcel: Parcel): Promise<boolean> {
    const { spool, notice } = this.#options;
    try {
      await this.#call(parcel);
      if (this.#failures > 0)
        notice("MLflow: the server answers again; the numbers that it missed are being sent");
      this.#failures = 0;
    } catch (thrown) {
      if (this.#stop.signal.aborted) return false;
      if (!(thrown instanceof MlflowRefusal && thrown.isFinal)) {
        if (this.#failures++ === 0)
          notice(`MLflow: ${faultWords(thrown)}. The run goes on; its numbers are kept and sent later`);
        return false;
      }
      if (!this.#isRefused)
        notice(`MLflow: the server refuses some of the run's numbers, which it will lack: ${thrown.message}`);
      this.#isRefused = true;
    }
    await spool.sent(parcel);
    return true;
  }

  async #call(parcel: Parcel): Promise<void> {
    const { client } = this.#options;
    const { signal } = this.#stop;
    const runId = await this.#runId();
    if ("batch" in parcel) await client.logBatch(runId, parcel.batch, signal);
    else await client.updateRun(runId, parcel, signal);
  }

  /** Returns the id of the server's run, and makes the run if it is not there. */
  async #runId(): Promise<string> {
    const { client, spool } = this.#options;
    const { signal } = this.#stop;
    const { state } = spool;
    if (state.runId === undefined) {
      const { name, startMs } = state;
      const experimentId = await client.experimentId(signal);
      const tag = { key: "lorafit.run", value: state.tag };
      const tags = [{ key: "mlflow.source.name", value: "lorafit train" }, tag];
      // an answer that was lost may have been of a run that was made
      const made = state.isAsked ? await client.runWithTag(experimentId, tag, signal) : undefined;
      state.isAsked = true;
      spool.save();
      state.runId = made ?? (await client.createRun({ experimentId, name, startMs, tags }, signal));
      spool.save();
    }
    return state.runId;
  }
}

/** Says why a call failed: "the server can't be reached (connect ECONNREFUSED 127.0.0.1:5000)". */
function faultWords(thrown: unknown): string {
  if (thrown instanceof MlflowRefusal)
    return `the server does not take the run's numbers (${thrown.message})`;
  if (thrown instanceof Error && thrown.name === "TimeoutError") return "the server does not answer in time";
  const cause = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause : thrown;
  return `the server can't be reached (${messageOf(cause)})`;
}
