import { type AttemptRef, type LeaseBatch, NODE_MESSAGE_BYTES_MAX, type Run, type RunTemplate, type ToNode } from "@frazil/contracts";
import { type Allotment, assign, type LeasableJob, takesWholeNode } from "../domain/assign.ts";
import { type Deps, type LeasedTask, topics } from "./deps.ts";
import { keepTemplates } from "./templates.ts";

/** Jobs of one user that one look at the table considers. */
const JOBS_PER_USER_MAX = 20;
/** Room left in a message for what surrounds the runs. */
const MESSAGE_OVERHEAD_BYTES = 4_096;
/** Weight of the newest task in the usual time of a job's tasks. */
const TASK_MS_WEIGHT = 0.2;
const TASK_MS_KEPT_MAX = 1_000;

/** A connected node, as far as leasing goes. */
export interface Link {
  readonly nodeId: string;
  readonly clusterId: string;
  readonly workspaceId: string;
  readonly slots: number;
  send(message: ToNode): void;
}

interface HeldRun {
  readonly jobId: string;
  readonly user: string;
  readonly slots: number;
  open: number;
}
interface LinkState {
  readonly link: Link;
  readonly held: Map<string, HeldRun>;
}

/** Keeps the slots of the nodes that are connected to this process filled, with leases pushed to them. */
export interface Dispatcher {
  /** The node is connected and holds these tasks (as the database says). */
  connect(link: Link, holding: readonly LeasedTask[]): Promise<void>;
  disconnect(nodeId: string, link: Link): void;
  /** An attempt's slots are free again. */
  release(nodeId: string, attempt: AttemptRef, taskMs: number | undefined): void;
  /** Tells the nodes that are connected here to stop these attempts. */
  cancel(attempts: readonly (AttemptRef & { nodeId: string })[]): void;
  wake(clusterId: string): void;
  /** Content of a lease that was too large for a message. */
  describe(nodeId: string, attempts: readonly AttemptRef[]): Promise<LeaseBatch[]>;
  stats(): { nodes: number; slots: number; held: number };
}

type DispatchDeps = Pick<Deps, "db" | "pool" | "changes" | "sealer" | "settings" | "log">;
const keyOf = (attempt: AttemptRef) => `${attempt.taskId}#${attempt.attempt}`;

export function makeDispatcher(deps: DispatchDeps): Dispatcher {
  const links = new Map<string, LinkState>();
  const templateOf = keepTemplates(deps);
  const taskMs = new Map<string, number>();
  const busy = new Map<string, { again: boolean }>();

  const linksOf = (clusterId: string) => [...links.values()].filter((state) => state.link.clusterId === clusterId);

  /** One fill per cluster at a time; a wake that comes during one makes it look again. */
  const wake = (clusterId: string) => {
    const running = busy.get(clusterId);
    if (running !== undefined) {
      running.again = true;
      return;
    }
    if (linksOf(clusterId).length === 0) return;
    const state = { again: false };
    busy.set(clusterId, state);
    void (async () => {
      try {
        do {
          state.again = false;
          await fill(clusterId);
        } while (state.again);
      } catch (error) {
        deps.log.error({ err: error, cluster: clusterId }, "could not lease");
      } finally {
        busy.delete(clusterId);
      }
    })();
  };

  const fill = async (clusterId: string) => {
    const states = linksOf(clusterId);
    if (states.length === 0) return;
    const jobs = (await deps.db.tasks.listLeasable(deps.pool, clusterId, JOBS_PER_USER_MAX)).map(
      (job): LeasableJob => ({ ...job, taskMs: taskMs.get(job.jobId) }),
    );
    if (jobs.length === 0) return;
    const nodes = states.map(({ link, held }) => ({ nodeId: link.nodeId, slots: link.slots, usedSlots: usedSlots(held) }));
    const allotments = Map.groupBy(assign(nodes, jobs, loadOf(states)), (given) => given.nodeId);
    for (const [nodeId, given] of allotments) {
      const state = links.get(nodeId);
      if (state !== undefined) await leaseTo(state, given);
    }
  };

  const leaseTo = async (state: LinkState, allotments: readonly Allotment[]) => {
    const { link } = state;
    const tasks = await deps.db.tasks.leaseTasks(deps.pool, link.nodeId, allotments, deps.settings.leaseTtlMs);
    for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
      const { template, job } = await templateOf(jobId);
      const runs = runsOf(deps, template, job.mode, ofJob, link.slots);
      for (const run of runs) hold(state, run, template);
      for (const message of messagesOf(runs, template, splitStatesOf(ofJob))) link.send(message);
      deps.changes.notify(topics.job(jobId));
    }
  };

  return {
    async connect(link, holding) {
      const state: LinkState = { link, held: new Map() };
      links.set(link.nodeId, state);
      for (const [jobId, ofJob] of Map.groupBy(holding, (task) => task.job_id)) {
        const { template, job } = await templateOf(jobId);
        for (const run of runsOf(deps, template, job.mode, ofJob, link.slots)) hold(state, run, template);
      }
      wake(link.clusterId);
    },
    disconnect(nodeId, link) {
      if (links.get(nodeId)?.link === link) links.delete(nodeId);
    },
    release(nodeId, attempt, ms) {
      const state = links.get(nodeId);
      const run = state?.held.get(keyOf(attempt));
      if (state === undefined || run === undefined) return;
      state.held.delete(keyOf(attempt));
      run.open -= 1;
      if (ms !== undefined) learn(taskMs, run.jobId, ms);
      wake(state.link.clusterId);
    },
    cancel(attempts) {
      for (const [nodeId, ofNode] of Map.groupBy(attempts, (attempt) => attempt.nodeId)) {
        const tasks = ofNode.map(({ taskId, attempt }) => ({ taskId, attempt }));
        for (let at = 0; at < tasks.length; at += 500) links.get(nodeId)?.link.send({ type: "cancel", tasks: tasks.slice(at, at + 500) });
      }
    },
    wake,
    async describe(nodeId, attempts) {
      const state = links.get(nodeId);
      const slots = state?.link.slots ?? 1;
      const tasks = await deps.db.tasks.loadLeased(deps.pool, nodeId, attempts);
      const batches: LeaseBatch[] = [];
      for (const [jobId, ofJob] of Map.groupBy(tasks, (task) => task.job_id)) {
        const { template, job } = await templateOf(jobId);
        for (const run of runsOf(deps, template, job.mode, ofJob, slots)) {
          batches.push({ template: { ...template, splitState: splitStatesOf(ofJob).get(firstTaskId(run)) ?? null }, runs: [run] });
        }
      }
      return batches;
    },
    stats: () => ({
      nodes: links.size,
      slots: [...links.values()].reduce((sum, state) => sum + state.link.slots, 0),
      held: [...links.values()].reduce((sum, state) => sum + state.held.size, 0),
    }),
  };
}

function usedSlots(held: ReadonlyMap<string, HeldRun>): number {
  return [...new Set(held.values())].reduce((sum, run) => sum + run.slots, 0);
}

function loadOf(states: readonly LinkState[]) {
  const byUser = new Map<string, number>();
  const byJob = new Map<string, number>();
  for (const run of new Set(states.flatMap((state) => [...state.held.values()]))) {
    byUser.set(run.user, (byUser.get(run.user) ?? 0) + run.slots);
    byJob.set(run.jobId, (byJob.get(run.jobId) ?? 0) + run.slots);
  }
  return { byUser, byJob };
}

function hold(state: LinkState, run: Run, template: RunTemplate): void {
  const held: HeldRun = { jobId: template.jobId, user: template.user, slots: run.slots, open: run.tasks.length };
  for (const task of run.tasks) state.held.set(keyOf(task), held);
}

function learn(taskMs: Map<string, number>, jobId: string, ms: number): void {
  const before = taskMs.get(jobId);
  taskMs.delete(jobId);
  taskMs.set(jobId, before === undefined ? ms : before + TASK_MS_WEIGHT * (ms - before));
  if (taskMs.size > TASK_MS_KEPT_MAX) taskMs.delete(taskMs.keys().next().value as string);
}

/** Groups leased tasks into engine runs: one each, but keys of one parent together, so that they share a read. */
function runsOf(deps: Pick<Deps, "sealer">, template: RunTemplate, mode: LeasableJob["mode"], tasks: readonly LeasedTask[], slots: number): Run[] {
  const groups = Map.groupBy(tasks, (task) => (task.kind === "key" && task.manifest === null ? `keys of ${task.parent_id}` : task.id));
  return [...groups.values()].map((group) => {
    const first = group[0] as LeasedTask;
    return {
      kind: first.kind,
      tasks: group.map((task) => ({ taskId: task.id, attempt: task.attempt, frame: task.frame, keyToken: task.key_token, keyPath: task.key_path })),
      planId: first.plan_id,
      planKind: first.plan_kind,
      plan: first.sealed_plan === null ? null : deps.sealer.open(first.sealed_plan, template.workspaceId).toString("base64"),
      slots: takesWholeNode(mode, first.kind) ? slots : 1,
      publish: first.manifest === null ? null : { manifest: first.manifest },
    };
  });
}

function splitStatesOf(tasks: readonly LeasedTask[]): Map<string, RunTemplate["splitState"]> {
  return new Map(tasks.map((task) => [task.id, (task.split_state ?? null) as RunTemplate["splitState"]]));
}

const firstTaskId = (run: Run) => (run.tasks[0] as Run["tasks"][number]).taskId;

/** Packs runs into messages that fit a frame; one that does not fit alone goes by reference. Runs of one message share a split state. */
function messagesOf(runs: readonly Run[], template: RunTemplate, splitStates: ReadonlyMap<string, RunTemplate["splitState"]>): ToNode[] {
  const messages: ToNode[] = [];
  const limit = NODE_MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES - JSON.stringify(template).length;
  let packed: Run[] = [];
  let bytes = 0;
  let state: RunTemplate["splitState"] = null;
  const flush = () => {
    if (packed.length > 0) messages.push({ type: "lease", batch: { template: { ...template, splitState: state }, runs: packed } });
    packed = [];
    bytes = 0;
  };
  for (const run of runs) {
    const ofRun = splitStates.get(firstTaskId(run)) ?? null;
    const size = JSON.stringify(run).length + (ofRun === null ? 0 : JSON.stringify(ofRun).length);
    if (size > limit) {
      messages.push({ type: "lease_by_reference", tasks: run.tasks.map(({ taskId, attempt }) => ({ taskId, attempt })) });
      continue;
    }
    if (bytes + size > limit || JSON.stringify(ofRun) !== JSON.stringify(state)) flush();
    state = ofRun;
    packed.push(run);
    bytes += size;
  }
  flush();
  return messages;
}
