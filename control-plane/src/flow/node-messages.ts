import { type AttemptRef, type FromNode, HELLO_HOLDING_MAX, type ToNode } from "@frazil/contracts";
import { makeBatcher } from "./batcher.ts";
import type { ConnectedNode, Deps, Heartbeat } from "./deps.ts";
import { topics } from "./deps.ts";
import type { Link } from "./links.ts";
import type { Recorder } from "./record.ts";
import { requeueHeld } from "./settle.ts";
import { sweepAfterLoss } from "./sweep.ts";

export interface NodeDeps extends Deps {
  readonly recorder: Recorder;
  /** Notes that a node was heard of, together with others that are heard of at the same moment. */
  readonly heard: (beat: Heartbeat) => Promise<void>;
}

export function makeHeard(deps: Pick<Deps, "db" | "pool">): NodeDeps["heard"] {
  return makeBatcher<Heartbeat, void>(async (beats) => {
    // Of one that beats twice, the later word.
    const latest = new Map(beats.map((beat) => [beat.nodeId, beat]));
    await deps.db.clusters.touchNodes(deps.pool, [...latest.values()]);
    return beats.map(() => undefined);
  });
}

/** Handles one message that came over a node's connection, and answers over it. A node that said hello is welcome and gets leases. */
export async function answerNode(deps: NodeDeps, node: ConnectedNode, link: Link, message: FromNode): Promise<void> {
  // A heartbeat over another link than the expected one: the hello of an older connection was handled last.
  const isOvertaken = message.type === "heartbeat" && !deps.dispatcher.expects(link);
  if (message.type === "hello" || isOvertaken) deps.dispatcher.expect(link);
  for (const answer of await handleNodeMessage(deps, node, message)) link.send(answer);
  if (isOvertaken) await deps.dispatcher.connect(link, await deps.db.leasing.loadHeld(deps.pool, node.id));
  if (message.type !== "hello") return;
  await deps.db.clusters.readyNode(deps.pool, node.id);
  link.send({ type: "welcome", slots: node.shape.cpus, memoryMiB: Math.floor(node.shape.memoryGiB * 1024) });
  deps.log.info({ node: node.id, cluster: node.cluster_id, holding: message.holding.length }, "node connected");
  await deps.dispatcher.connect(link, await deps.db.leasing.loadHeld(deps.pool, node.id));
  deps.queue.send("supervise", node.cluster_id);
  deps.changes.notify(topics.cluster(node.cluster_id));
}

/** Handles one message of a node and returns what to answer. Every message may come twice, late, or from a node that lost its tasks. */
export async function handleNodeMessage(deps: NodeDeps, node: ConnectedNode, message: FromNode): Promise<ToNode[]> {
  switch (message.type) {
    case "hello":
      return greet(deps, node, message.holding);
    case "heartbeat": {
      const lost = await deps.db.tasks.renewLeases(deps.pool, node.id, message.holding, deps.settings.leaseTtlMs);
      await deps.heard({ nodeId: node.id, cpuPercent: message.cpuPercent, memoryBytes: message.memoryBytes });
      for (const attempt of lost) deps.dispatcher.release(node.id, attempt, undefined);
      deps.dispatcher.keep(node.id, message.holding);
      await sweepAfterLoss(deps, lost);
      return [{ type: "beat", lost }];
    }
    case "started":
      deps.recorder.started(node.id, message.tasks);
      return [];
    case "progress":
      await reportProgress(deps, node, message);
      return [];
    case "staged": {
      const live = await deps.db.tasks.fenceForPublish(deps.pool, message, node.id, message.manifest);
      // An abandoned attempt is let go without another word.
      if (!live) deps.dispatcher.release(node.id, message, undefined);
      // One that was fenced before it lost its lease staged what its successor is to publish: it must not be removed, and publishing it twice does no harm.
      const wanted = live || (await deps.db.tasks.wasFenced(deps.pool, message.taskId, message.manifest));
      return [{ type: wanted ? "publish" : "abandon", taskId: message.taskId, attempt: message.attempt }];
    }
    case "finished": {
      const { taskId, attempt, outcome, usage } = message;
      const taskMs = outcome.kind === "succeeded" ? usage?.wallMs : undefined;
      const release = () => deps.dispatcher.release(node.id, { taskId, attempt }, taskMs);
      // The slot is filled again while the report is on its way to the database, as long as those keep up.
      if (!deps.recorder.isBehind()) release();
      const accepted = await deps.recorder.finished({ nodeId: node.id, message });
      release();
      return [{ type: "recorded", taskId, attempt, accepted }];
    }
    case "swept": {
      const { jobId, token, error } = message;
      if (error === null) await deps.db.sweeps.endSweep(deps.pool, node.workspace_id, jobId, token);
      else deps.log.warn({ job: jobId, node: node.id, error: error.message }, "leftovers of a job not removed");
      return [];
    }
  }
}

/** A node that connects says what it holds. What it no longer holds is given back; what is no longer its own it is told to stop. */
async function greet(deps: NodeDeps, node: ConnectedNode, holding: readonly AttemptRef[]): Promise<ToNode[]> {
  const lost = await deps.db.tasks.renewLeases(deps.pool, node.id, holding, deps.settings.leaseTtlMs);
  await sweepAfterLoss(deps, lost);
  if (holding.length < HELLO_HOLDING_MAX) await requeueHeld(deps, node.id, holding);
  return lost.length === 0 ? [] : [{ type: "cancel", tasks: [...lost] }];
}

async function reportProgress(
  deps: NodeDeps,
  node: ConnectedNode,
  message: Extract<FromNode, { type: "progress" }>,
): Promise<void> {
  const jobId = await deps.db.tasks.setTaskPhase(deps.pool, message, node.id, message.phase);
  if (jobId !== undefined && (await deps.db.jobs.setPhase(deps.pool, jobId, message.phase)))
    deps.changes.notify(topics.job(jobId));
}
