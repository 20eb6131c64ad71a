import { createHash } from "node:crypto";
import { JobSpec, Problem } from "@frazil/contracts";
import { specOf } from "../harness/submissions.ts";
import { type Installation, WORKSPACE } from "./installation.ts";
import type { Replica } from "./replica.ts";
import type { Process } from "./scheduler.ts";
import { type Script, writeScript } from "./scripts.ts";

/** What a client wants to have done. */
export interface Wish {
  readonly user: string;
  readonly mode: "single" | "many";
  readonly isPartitioned: boolean;
  readonly scripts: readonly Script[];
  readonly hasDestination: boolean;
  readonly cancelsOnFailure: boolean;
  readonly attemptsMax: number;
  readonly shape: number;
  readonly idleTimeoutSeconds: number;
  readonly key: string;
}

/** A submission and what came of it, as its client knows. */
export interface Asked {
  readonly wish: Wish;
  jobId: string | undefined;
  /** Answers to the same key, all of them. */
  readonly answers: string[];
  cancelled: boolean;
  /** Of a retry: the job that it was made of. */
  readonly retryOf: string | undefined;
}

export const SHAPES = [
  { cpus: 2, memoryGiB: 1, clusterSize: 1 },
  { cpus: 1, memoryGiB: 2, clusterSize: 2 },
] as const;

/** While all replicas are frozen, nothing but tries goes on. Whether a client is answered in time once they are back, the run's end tells. */
const TRIES_MAX = 1_000;
const RETRY_MS = 700;

/** Clients that ask again until they are answered, with the same idempotency key. */
export interface Clients {
  submit(wish: Wish): Asked;
  /** The same submission once more, by another process of the same client. */
  repeat(asked: Asked): void;
  /** The same key with another body: must be refused once the first was accepted. */
  misuse(asked: Asked): void;
  cancel(asked: Asked): void;
  retry(asked: Asked): void;
  readonly all: readonly Asked[];
  readonly faults: string[];
  isWaiting(): boolean;
}

interface State {
  readonly installation: Installation;
  readonly process: Process;
  readonly all: Asked[];
  readonly faults: string[];
  waiting: number;
}

export function makeClients(installation: Installation): Clients {
  const process = installation.scheduler.spawn("client");
  const state: State = { installation, process, all: [], faults: [], waiting: 0 };
  return {
    all: state.all,
    faults: state.faults,
    isWaiting: () => state.waiting > 0,
    submit(wish) {
      const asked: Asked = { wish, jobId: undefined, answers: [], cancelled: false, retryOf: undefined };
      state.all.push(asked);
      start(state, () => mustAccept(state, asked));
      return asked;
    },
    repeat(asked) {
      if (asked.retryOf === undefined) start(state, () => mustAccept(state, asked));
    },
    misuse(asked) {
      if (asked.jobId !== undefined && asked.retryOf === undefined) start(state, () => mustRefuse(state, asked));
    },
    cancel(asked) {
      const { jobId } = asked;
      if (jobId === undefined) return;
      asked.cancelled = true;
      start(state, () => mustCancel(state, jobId));
    },
    retry(asked) {
      const { jobId } = asked;
      if (jobId !== undefined) start(state, () => retryOnce(state, asked, jobId));
    },
  };
}

function start(state: State, work: () => Promise<void>): void {
  state.waiting += 1;
  const ended = () => {
    state.waiting -= 1;
  };
  const run = async () => {
    await work().catch((error: Error) => state.faults.push(error.message));
    ended();
  };
  state.installation.scheduler.inside(state.process, () => void run());
}

/** Asks until there is an answer. */
async function persist<T>(
  { installation, process }: State,
  what: string,
  work: (replica: Replica) => Promise<T>,
): Promise<T | Problem> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    await installation.scheduler.perform(process, what, () => undefined);
    const answer = await installation.request(work);
    if (answer !== undefined && "value" in answer) return answer.value;
    const error = answer?.error;
    if (error instanceof Problem && error.code !== "unavailable") return error;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  throw new Error(`${what}: no answer in ${TRIES_MAX} tries`);
}

async function mustAccept(state: State, asked: Asked): Promise<void> {
  const { wish } = asked;
  const answer = await persist(state, "submit", (replica) =>
    submit(state.installation, replica, wish, JSON.stringify(wish)),
  );
  if (answer instanceof Problem) {
    state.faults.push(`a submission was refused: ${answer.message}`);
    return;
  }
  asked.answers.push(answer.id);
  asked.jobId ??= answer.id;
}

async function mustRefuse(state: State, { wish }: Asked): Promise<void> {
  const answer = await persist(state, "misuse", (replica) => submit(state.installation, replica, wish, "another body"));
  if (!(answer instanceof Problem) || answer.code !== "idempotency_mismatch")
    state.faults.push(`a key with another body was not refused: ${wish.key}`);
}

async function mustCancel(state: State, jobId: string): Promise<void> {
  const { cancelJob } = state.installation.product.cancel;
  const answer = await persist(state, "cancel", ({ deps }) => cancelJob(deps, WORKSPACE, jobId));
  if (answer instanceof Problem) state.faults.push(`a cancel was refused: ${answer.message}`);
}

/** Has no idempotency key: asked once, and its answer may be lost. Of a job that is open, or has nothing to retry, it is refused. */
async function retryOnce(state: State, { wish }: Asked, jobId: string): Promise<void> {
  const { retryJob } = state.installation.product.retry;
  const retry = { workspaceId: WORKSPACE, user: wish.user, jobId, idempotencyKey: null };
  const answer = await state.installation.request(({ deps }) => retryJob(deps, retry));
  if (answer === undefined) return;
  if ("value" in answer) {
    state.all.push({ wish, jobId: answer.value.id, answers: [], cancelled: false, retryOf: jobId });
    return;
  }
  if (answer.error instanceof Problem && answer.error.code !== "conflict") state.faults.push(answer.error.message);
}

/** As `http/submission.ts` hands it to the flow. */
async function submit(installation: Installation, { deps }: Replica, wish: Wish, body: string) {
  const { submit: flow } = installation.product;
  const workspace = await deps.db.tokens.loadWorkspace(deps.pool, WORKSPACE);
  if (workspace === undefined) throw new Error("the workspace is gone");
  const submitter = { workspace, user: wish.user, idempotencyKey: wish.key };
  const spec = JobSpec.parse(
    specOf({
      context: { ...SHAPES[wish.shape], idleTimeoutSeconds: wish.idleTimeoutSeconds } as never,
      output: wish.hasDestination ? { destination: `/out/${wish.key}` } : {},
      partitionBy: wish.isPartitioned ? { keys: [{ name: "day" }] } : null,
      onFailure: wish.cancelsOnFailure ? "cancel" : "continue",
      attemptsMax: wish.attemptsMax,
    }),
  );
  const [first] = wish.scripts;
  if (wish.mode === "single" && first !== undefined)
    return flow.submitOne(deps, submitter, spec, writeScript(first), Buffer.from(body));
  const plans = wish.scripts.map((script) => {
    const plan = writeScript(script);
    return flow.sealPlan(deps, WORKSPACE, plan.kind, flow.planBytes(plan, spec));
  });
  const distinct = [...new Map(plans.map((plan) => [plan.hash.toString("base64"), plan])).values()];
  const ids = await deps.db.plans.storePlans(deps.pool, WORKSPACE, distinct);
  const idByHash = new Map(distinct.map((plan, at) => [plan.hash.toString("base64"), ids[at] as string]));
  const planIds = plans.map((plan) => idByHash.get(plan.hash.toString("base64")) as string);
  return flow.submitMany(deps, submitter, spec, planIds, createHash("sha256").update(body).digest());
}
