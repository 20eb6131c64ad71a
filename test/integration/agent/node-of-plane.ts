import type { Cluster, Job } from "@frazil/contracts";
import { NODE_ENV } from "@frazil/contracts";
import type { TestControlPlane } from "../../harness/control-plane.ts";
import { specOf } from "../../harness/submissions.ts";
import { waitUntil } from "../../harness/wait-until.ts";
import { type AgentProcess, enginesOf, makeNodeDir, removeNodeDir, startAgent } from "./agent-process.ts";

const READY_WITHIN_MS = 20_000;

/** A step of the fake engine. */
export type Step = [verb: string, argument: unknown];

/** A real agent, with the fake engine, as the only node of a cluster of a real control plane. */
export interface NodeOfPlane {
  readonly clusterId: string;
  readonly nodeDir: string;
  readonly agent: AgentProcess;
  /** The body of a submission to this cluster; the fake engine carries out the steps. */
  query(steps: readonly Step[], name?: string): { spec: unknown; plan: { kind: "sql"; text: string } };
  submit(steps: readonly Step[]): Promise<Job>;
  submitMany(steps: readonly Step[], frames: number): Promise<Job>;
  stop(): Promise<void>;
}

let shapes = 0;

/** `address` is the control plane's own, or that of something in between. */
export async function startNodeOfPlane(
  test: TestControlPlane,
  address: string,
  env: Record<string, string> = {},
): Promise<NodeOfPlane> {
  shapes += 1;
  const { id } = await test.api.post<Cluster>("/v1/clusters", { context: { cpus: 2, memoryGiB: 200 + shapes } });
  const order = await test.cloud.orderOf(id, 0);
  const nodeDir = makeNodeDir();
  const joinToken = order.environment[NODE_ENV.joinToken] ?? "";
  const agent = startAgent({ address }, nodeDir, { FRAZIL_JOIN_TOKEN: joinToken, ...env });
  await waitUntil("the cluster is ready", async () => (await test.api.cluster(id)).status === "ready", READY_WITHIN_MS);
  const plan = (steps: readonly Step[]) => ({ kind: "sql" as const, text: JSON.stringify(steps) });
  const spec = (name: string | null = null) => specOf({ context: null, clusterId: id as never, name });
  const query = (steps: readonly Step[], name?: string) => ({ spec: spec(name), plan: plan(steps) });
  return {
    clusterId: id,
    nodeDir,
    agent,
    query,
    submit: (steps) => test.api.submit(query(steps)),
    submitMany(steps, frames) {
      const lines: unknown[] = [
        { line: "header", spec: spec() },
        { line: "plan", number: 0, plan: plan(steps) },
        { line: "frames", plans: Array.from({ length: frames }, () => 0) },
      ];
      return test.api.submit(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    },
    async stop() {
      agent.child.kill("SIGKILL");
      await agent.exited;
      await waitUntil("no engine is left", () => enginesOf(nodeDir).length === 0);
      removeNodeDir(nodeDir);
    },
  };
}
