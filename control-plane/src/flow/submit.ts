import { createHash } from "node:crypto";
import {
  type ClusterShape,
  INLINE_PLAN_BYTES_MAX,
  type JobMode,
  type JobSpec,
  mintId,
  PLAN_BYTES_MAX,
  type Plan,
  Problem,
  TASKS_PER_JOB_MAX,
  type TaskKind,
} from "@frazil/contracts";
import { checkPlanBytes, checkRelease, checkSpec } from "../domain/check-spec.ts";
import { hashShape, shapeOf } from "../domain/shape.ts";
import { type Deps, type JobRow, type LeasedTask, type NewPlan, topics, type WorkspaceRow } from "./deps.ts";
import { sameAsFirst } from "./repeats.ts";
import { makeTemplate } from "./templates.ts";

type SubmitDeps = Pick<
  Deps,
  "pool" | "db" | "sealer" | "clouds" | "queue" | "changes" | "dispatcher" | "templates" | "settings" | "log"
>;

export interface Submitter {
  readonly workspace: WorkspaceRow;
  readonly user: string;
  readonly idempotencyKey: string | null;
}

/** Opens a plan's envelope: the bytes that an engine will get. Checks what the header tells, and no more. */
export function planBytes(plan: Plan, spec: JobSpec): Buffer {
  if (plan.kind === "sql") {
    checkRelease(spec);
    return Buffer.from(plan.text, "utf8");
  }
  const bytes = Buffer.from(plan.data, "base64");
  if (bytes.length > PLAN_BYTES_MAX)
    throw new Problem("too_large", `A plan may have ${PLAN_BYTES_MAX} bytes; scan large data from storage.`);
  checkPlanBytes(bytes, spec);
  return bytes;
}

export function sealPlan(deps: Pick<Deps, "sealer">, workspaceId: string, kind: Plan["kind"], bytes: Buffer): NewPlan {
  return {
    kind,
    hash: deps.sealer.hash(bytes, `${workspaceId} ${kind}`),
    sealed: deps.sealer.seal(bytes, workspaceId),
    sizeBytes: bytes.length,
  };
}

/** Accepts one query: a single task, or one that finds the keys of a partitioned job. An idle warm node gets it in the same statement. */
export async function submitOne(
  deps: SubmitDeps,
  submitter: Submitter,
  spec: JobSpec,
  plan: Plan,
  body: Uint8Array,
): Promise<JobRow> {
  const asked = { submitter, spec, requestHash: createHash("sha256").update(body).digest() };
  return orFirst(deps, asked, () => acceptOne(deps, asked, plan));
}

/** A submission without its plans. */
interface Asked {
  readonly submitter: Submitter;
  readonly spec: JobSpec;
  readonly requestHash: Buffer;
}

/** Undefined when the idempotency key was used before. */
async function acceptOne(deps: SubmitDeps, asked: Asked, plan: Plan): Promise<JobRow | undefined> {
  const { submitter, spec } = asked;
  const { workspace } = submitter;
  const newPlan = sealPlan(deps, workspace.id, plan.kind, planBytes(plan, spec));
  const mode = spec.partitionBy === null ? "single" : "partitioned";
  const { draft, full } = await draftJob(deps, asked, mode);
  const kind = kindOfTasks(spec);
  const taskId = mintId("task");
  const claim = deps.dispatcher.claim(draft);
  let isDelivered = false;
  try {
    const job = await deps.db.jobs.insertJob(deps.pool, draft, {
      kind,
      ids: [taskId],
      frames: [null],
      planIds: [null],
      more: 0,
      newPlan,
      claim: claim === undefined ? null : { nodeId: claim.nodeId, ttlMs: deps.settings.leaseTtlMs },
    });
    if (job === undefined) return undefined;
    const template = makeTemplate(job, full, workspace);
    deps.templates.keep(template, draft.sealed.length);
    if (claim !== undefined && job.status === "running") {
      isDelivered = true;
      deps.dispatcher.deliver(claim, firstLease(job, kind, taskId, newPlan), template);
    }
    announce(deps, job);
    return job;
  } finally {
    if (claim !== undefined && !isDelivered) deps.dispatcher.unclaim(claim);
  }
}

/** The task that was leased as it was inserted. */
function firstLease(job: JobRow, kind: TaskKind, taskId: string, plan: NewPlan): LeasedTask {
  return {
    id: taskId,
    job_id: job.id,
    mode: job.mode,
    kind,
    attempt: 1,
    frame: null,
    ordinal: 0,
    parent_id: null,
    key_path: null,
    key_token: null,
    plan_id: job.new_plan_id as string,
    plan_kind: plan.kind,
    sealed_plan: plan.sizeBytes <= INLINE_PLAN_BYTES_MAX ? plan.sealed : null,
    split_state: null,
    manifest: null,
  };
}

/** Tasks that one statement inserts: memory holds no more of them, however many the job has. */
const TASKS_PER_INSERT = 2_000;

/** The plan's id for each frame, in order. */
export interface FramePlans {
  readonly length: number;
  slice(from: number, to: number): readonly string[];
}

/** Accepts many frames whose plans were stored already (they are content-addressed: storing them is harmless if the rest never comes). */
export async function submitMany(
  deps: SubmitDeps,
  submitter: Submitter,
  spec: JobSpec,
  planIds: FramePlans,
  requestHash: Buffer,
): Promise<JobRow> {
  if (planIds.length === 0)
    throw new Problem("unprocessable", "There is no frame in this submission; send at least one.");
  if (planIds.length > TASKS_PER_JOB_MAX) {
    throw new Problem(
      "limit_exceeded",
      `A job may have ${TASKS_PER_JOB_MAX} tasks, this one has ${planIds.length}; send it as several jobs.`,
    );
  }
  const asked = { submitter, spec, requestHash };
  return orFirst(deps, asked, () => acceptMany(deps, asked, planIds));
}

/** Undefined when the idempotency key was used before. */
async function acceptMany(deps: SubmitDeps, asked: Asked, planIds: FramePlans): Promise<JobRow | undefined> {
  const { draft } = await draftJob(deps, asked, "many");
  const kind = kindOfTasks(asked.spec);
  const more = planIds.length;
  // In one transaction: nobody ever sees a part of it, and of a process that dies meanwhile nothing is left.
  const job = await deps.pool.transact(async (sql) => {
    const made = await deps.db.jobs.insertJob(sql, draft, {
      kind,
      ids: [],
      frames: [],
      planIds: [],
      more,
      newPlan: null,
      claim: null,
    });
    if (made === undefined) return undefined;
    for (let from = 0; from < more; from += TASKS_PER_INSERT)
      await deps.db.jobs.insertTasks(sql, made, kind, from, planIds.slice(from, from + TASKS_PER_INSERT));
    return made;
  });
  if (job !== undefined) announce(deps, job);
  return job;
}

function kindOfTasks(spec: JobSpec): TaskKind {
  return spec.partitionBy === null ? "query" : "split";
}

/**
 * A repeat gets the job that its first request made, even if it could not be made any more: because its cluster is gone, for example. Looked up only then:
 * what is accepted costs no trip more.
 */
async function orFirst(
  deps: SubmitDeps,
  { submitter: { workspace, idempotencyKey }, requestHash }: Asked,
  accept: () => Promise<JobRow | undefined>,
): Promise<JobRow> {
  let refusal: Problem | undefined;
  try {
    const job = await accept();
    if (job !== undefined) return job;
  } catch (error) {
    if (!(error instanceof Problem) || idempotencyKey === null) throw error;
    refusal = error;
  }
  const first = await deps.db.jobs.findJobByKey(deps.pool, workspace.id, idempotencyKey ?? "");
  if (first === undefined && refusal !== undefined) throw refusal;
  return sameAsFirst(first, { idempotencyKey, requestHash });
}

/** All of a job but its plans. Specs are kept in memory, and sent with every run of the job. */
const SPEC_BYTES_MAX = 1024 * 1024;
/** What is shown of it. A list of jobs holds a thousand of these. */
const SHOWN_BYTES_MAX = 64 * 1024;

/** The bytes that are sealed, and what is shown of them. Refuses a spec that is too large. */
export function encodeSpec(spec: JobSpec): { bytes: Buffer; shown: JobSpec } {
  const bytes = Buffer.from(JSON.stringify(spec));
  if (bytes.length > SPEC_BYTES_MAX) {
    throw new Problem(
      "too_large",
      `A job without its plan may have ${SPEC_BYTES_MAX} bytes, this one has ${bytes.length}; give what is large in env, options or key expressions as files or as data in the plan.`,
    );
  }
  const shown = withoutSecrets(spec);
  const shownBytes = Buffer.byteLength(JSON.stringify(shown));
  if (shownBytes > SHOWN_BYTES_MAX) {
    throw new Problem(
      "too_large",
      `A job's labels, packages, output options and names may have ${SHOWN_BYTES_MAX} bytes, these have ${shownBytes}; give fewer or shorter ones.`,
    );
  }
  return { bytes, shown };
}

/** Everything about a job but its tasks, checked. */
async function draftJob(deps: SubmitDeps, { submitter, spec, requestHash }: Asked, mode: JobMode) {
  checkSpec(spec);
  const { workspace } = submitter;
  const target = await chooseTarget(deps, workspace, spec);
  const refusal = cloudOf(deps, target.shape).refusal(target.shape);
  if (refusal !== undefined) throw new Problem("not_available", refusal);
  const full: JobSpec = { ...spec, context: { ...target.context } };
  const { bytes, shown } = encodeSpec(full);
  const draft = {
    id: mintId("job"),
    workspaceId: workspace.id,
    userName: submitter.user,
    mode,
    spec: shown,
    sealed: deps.sealer.seal(bytes, workspace.id),
    shape: target.shape,
    shapeHash: hashShape(target.shape),
    clusterId: target.clusterId,
    idempotencyKey: submitter.idempotencyKey,
    requestHash: submitter.idempotencyKey === null ? null : requestHash,
    retryOf: null,
  };
  return { draft, full };
}

/** A started cluster by id, the context asked for, or the workspace's default. Packages and environment always come from the context asked for. */
async function chooseTarget(deps: SubmitDeps, workspace: WorkspaceRow, spec: JobSpec) {
  const context = spec.context ?? workspace.default_context;
  if (spec.clusterId === null) return { context, shape: shapeOf(context, defaultCloud(workspace)), clusterId: null };
  const cluster = await deps.db.clusters.loadCluster(deps.pool, spec.clusterId);
  if (cluster === undefined || cluster.workspace_id !== workspace.id)
    throw new Problem("not_found", `There is no cluster ${spec.clusterId}.`);
  if (!["requested", "starting", "ready"].includes(cluster.status)) {
    throw new Problem(
      "conflict",
      `Cluster ${cluster.id} is ${cluster.status}; start a new one, or leave the cluster out.`,
    );
  }
  return { context: { ...context, ...cluster.shape }, shape: cluster.shape, clusterId: cluster.id };
}

const FALLBACK_CLOUD = "local";
export function defaultCloud(workspace: WorkspaceRow): string {
  return workspace.default_context.cloud ?? FALLBACK_CLOUD;
}

export function cloudOf(deps: Pick<Deps, "clouds">, shape: ClusterShape) {
  const cloud = deps.clouds.get(shape.cloud);
  if (cloud === undefined) {
    throw new Problem(
      "not_available",
      `The cloud "${shape.cloud}" is not connected; this installation has ${[...deps.clouds.keys()].join(", ")}.`,
    );
  }
  return cloud;
}

/** What may be shown, logged and indexed of a submission. */
function withoutSecrets(spec: JobSpec): JobSpec {
  return {
    ...spec,
    context: spec.context === null ? null : { ...spec.context, env: {} },
    output: { ...spec.output, storageOptions: {} },
    partitionBy:
      spec.partitionBy === null
        ? null
        : { ...spec.partitionBy, keys: spec.partitionBy.keys.map((key) => ({ ...key, expr: null })) },
  };
}

/** Tells who can go on with a new job, unless a node has it already: the dispatcher of its warm cluster, or the placing step. */
export function announce(deps: Pick<Deps, "changes" | "queue" | "log">, job: JobRow): void {
  if (job.cluster_id === null) deps.queue.send("place", job.id);
  else if (job.status === "queued") deps.changes.notify(topics.room(job.cluster_id));
  deps.log.info(
    { job: job.id, workspace: job.workspace_id, mode: job.mode, tasks: job.tasks_total, cluster: job.cluster_id },
    "submitted",
  );
}
