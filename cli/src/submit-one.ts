import { randomUUID } from "node:crypto";
import { agreeOnVersions } from "./client-versions.ts";
import type { ExitCode } from "./exit-codes.ts";
import type { JobOptions } from "./job-options.ts";
import { makeContext, makeSpec, type SpecInput } from "./job-spec.ts";
import { parseKeys } from "./partition-keys.ts";
import { pythonCommand } from "./python-frames.ts";
import { type Frame, onlyFrame, openTargets, type Queries } from "./queries.ts";
import type { Session } from "./session.ts";
import { concludeSubmission, isWaiting, sendInterruptibly } from "./submitted.ts";
import { readTarget } from "./targets.ts";

/** With --wait, the first answer is held back this long: a query that is over by then needs no second request. */
const FIRST_HELD_SECONDS = 2;

export async function submitOne(session: Session, query: string, options: JobOptions): Promise<ExitCode> {
  const { io } = session;
  const keys = parseKeys(options.partitionBy);
  const target = await readTarget(io, query);
  const queries = await openTargets(io, pythonCommand(io, options.python), [target], keys, false);
  const frame = onlyFrame(queries);
  const spec = await specOf(session, options, queries);
  return send(session, spec, frame, options);
}

/** The spec for queries that have been opened. */
export async function specOf(
  session: Session,
  options: JobOptions,
  queries: Pick<Queries, "keys" | "origins">,
): Promise<SpecInput> {
  const client = agreeOnVersions(queries.origins, options, session.io.cwd);
  const context = await makeContext(options, async () => (await session.api()).me());
  return makeSpec(options, context, client, queries.keys, session.io);
}

async function send(session: Session, spec: SpecInput, frame: Frame, options: JobOptions): Promise<ExitCode> {
  const api = await session.api();
  const startedAt = Date.now();
  const idempotencyKey = options.idempotencyKey ?? randomUUID();
  // Logs are followed from the start, so nothing is waited for here.
  const heldSeconds = isWaiting(options) && !options.follow ? firstHeldSeconds(options) : 0;
  const job = await sendInterruptibly(session, (signal) =>
    api.submit({ spec, plan: frame.plan }, heldSeconds, { idempotencyKey, signal }),
  );
  return concludeSubmission(session, api, job, options, { startedAt });
}

function firstHeldSeconds({ waitTimeout }: JobOptions): number {
  return waitTimeout === undefined ? FIRST_HELD_SECONDS : Math.min(FIRST_HELD_SECONDS, waitTimeout / 1_000);
}
