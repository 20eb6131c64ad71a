import { type LeaseBatch, NODE_MESSAGE_BYTES_MAX, type Run, type RunTemplate, type ToNode } from "@frazil/contracts";
import { takesWholeNode } from "../domain/assign.ts";
import type { Deps, LeasedTask } from "./deps.ts";

/** Room left in a message for what surrounds the runs. */
const MESSAGE_OVERHEAD_BYTES = 4_096;

/** Groups leased tasks into engine runs: one each, but keys of one parent together, so that they share a read. */
export function runsOf(
  deps: Pick<Deps, "sealer">,
  template: RunTemplate,
  tasks: readonly LeasedTask[],
  slots: number,
): Run[] {
  const groups = Map.groupBy(tasks, (task) =>
    task.kind === "key" && task.manifest === null ? `keys of ${task.parent_id}` : task.id,
  );
  return [...groups.values()].map((group) => {
    const first = group[0] as LeasedTask;
    return {
      kind: first.kind,
      tasks: group.map((task) => ({
        taskId: task.id,
        attempt: task.attempt,
        frame: task.frame,
        keyToken: task.key_token,
        keyPath: task.key_path,
      })),
      planId: first.plan_id,
      planKind: first.plan_kind,
      plan:
        first.sealed_plan === null
          ? null
          : deps.sealer.open(first.sealed_plan, template.workspaceId).toString("base64"),
      slots: takesWholeNode(first.mode, first.kind) ? slots : 1,
      publish: first.manifest === null ? null : { manifest: first.manifest },
    };
  });
}

/** One run as a batch of its own, with what the splitting of its parent handed on. */
export function batchOf(run: Run, template: RunTemplate, tasks: readonly LeasedTask[]): LeaseBatch {
  return { template: withSplitState(template, splitStateOf(run, tasks)), runs: [run] };
}

/** Packs runs into messages that fit a frame; one that does not fit alone goes by reference. Runs of one message share a split state. */
export function messagesOf(runs: readonly Run[], template: RunTemplate, tasks: readonly LeasedTask[]): ToNode[] {
  const limit = NODE_MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES - bytesOf(template);
  const messages: ToNode[] = [];
  let packed: { runs: Run[]; bytes: number; splitState: string } | undefined;
  for (const run of runs) {
    const splitState = JSON.stringify(splitStateOf(run, tasks));
    const bytes = bytesOf(run) + Buffer.byteLength(splitState);
    if (bytes > limit) {
      messages.push({
        type: "lease_by_reference",
        tasks: run.tasks.map(({ taskId, attempt }) => ({ taskId, attempt })),
      });
      // What comes behind it goes out behind it.
      packed = undefined;
      continue;
    }
    if (packed === undefined || packed.bytes + bytes > limit || packed.splitState !== splitState) {
      packed = { runs: [], bytes: 0, splitState };
      messages.push({
        type: "lease",
        batch: { template: withSplitState(template, JSON.parse(splitState)), runs: packed.runs },
      });
    }
    packed.runs.push(run);
    packed.bytes += bytes;
  }
  return messages;
}

function bytesOf(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value));
}

function splitStateOf(run: Run, tasks: readonly LeasedTask[]): RunTemplate["splitState"] {
  const first = tasks.find((task) => task.id === run.tasks[0]?.taskId);
  return (first?.split_state ?? null) as RunTemplate["splitState"];
}

function withSplitState(template: RunTemplate, splitState: RunTemplate["splitState"]): RunTemplate {
  return { ...template, splitState };
}
