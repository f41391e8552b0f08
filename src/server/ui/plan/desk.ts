/**
 * Works on several questions in one thread. Each is a list of steps with a rank. The step of the lowest rank
 * comes first, and among equal ones the newest question's. A long step calls `pause` now and then, which ends
 * the step if its question is cancelled or a step of a lower rank waits. An ended step begins anew later.
 */

export interface Step {
  rank: number;
  /** Returns further steps of its question, if there are any. */
  run: () => Step[] | undefined;
}

export interface Desk {
  add: (id: number, steps: Step[]) => void;
  cancel: (id: number) => void;
  /** Does one step. Returns false if there was none. */
  work: () => boolean;
  /** Throws if the step in work has to end. */
  pause: () => void;
}

interface Task {
  id: number;
  steps: Step[];
}

/** Ends a step. Nothing else may catch it. */
class Interrupted extends Error {}

export interface DeskHooks {
  /** Calls add and cancel for what has come meanwhile. */
  look: () => void;
  done: (id: number) => void;
  /** Called if a step fails; its question is dropped. */
  failed: (id: number, cause: unknown) => void;
}

export function openDesk({ look, done, failed }: DeskHooks): Desk {
  const tasks = new Map<number, Task>();
  let current: { task: Task; step: Step } | undefined;

  function next(): { task: Task; step: Step } | undefined {
    let best: { task: Task; step: Step } | undefined;
    for (const task of tasks.values()) {
      const [step] = task.steps;
      if (step && (!best || step.rank <= best.step.rank)) best = { task, step };
    }
    return best;
  }

  function finish(task: Task, more: Step[] | undefined): void {
    task.steps.splice(0, 1, ...(more ?? []));
    if (task.steps.length > 0 || !tasks.delete(task.id)) return;
    done(task.id);
  }

  return {
    add(id, steps) {
      tasks.set(id, { id, steps });
    },
    cancel(id) {
      tasks.delete(id);
    },
    work() {
      current = next();
      if (!current) return false;
      const { task, step } = current;
      try {
        finish(task, step.run());
      } catch (thrown) {
        if (!(thrown instanceof Interrupted) && tasks.delete(task.id)) failed(task.id, thrown);
      }
      current = undefined;
      return true;
    },
    pause() {
      look();
      if (!current) return;
      const isCancelled = tasks.get(current.task.id) !== current.task;
      if (isCancelled || next()!.step.rank < current.step.rank) throw new Interrupted();
    },
  };
}
