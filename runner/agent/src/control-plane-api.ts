import {
  type AttemptRef,
  type FromNode,
  JoinAnswer,
  type JoinRequest,
  LeaseBatch,
  type NodeLogLine,
  PLAN_BYTES_MAX,
  SweepOrder,
  ToNode,
} from "@frazil/contracts";
import { z } from "zod";

const REQUEST_WITHIN_MS = 30_000;
const PLAN_WITHIN_MS = 120_000;

/** The control plane answered, and not with success. */
export class RefusedError extends Error {
  readonly status: number;
  constructor(status: number, detail: string) {
    super(`the control plane answered ${status}: ${detail}`);
    this.status = status;
  }

  /** Asking again will not help. */
  get final(): boolean {
    return this.status >= 400 && this.status < 500 && ![408, 425, 429].includes(this.status);
  }
}

const Leases = z.union([
  LeaseBatch.transform((batch) => [batch]),
  z.array(LeaseBatch),
  z.object({ batches: z.array(LeaseBatch) }).transform((answer) => answer.batches),
]);
const Acknowledgements = z.object({ messages: z.array(ToNode) });

export interface ControlPlaneApi {
  sendMessages(messages: readonly FromNode[]): Promise<ToNode[]>;
  fetchLeases(tasks: readonly AttemptRef[]): Promise<LeaseBatch[]>;
  fetchPlan(planId: string): Promise<Buffer>;
  /** The part of what is to be removed of an ended job that begins after `after`. */
  fetchSweep(jobId: string, after: string | null): Promise<SweepOrder>;
  sendLogs(lines: readonly NodeLogLine[]): Promise<"sent" | "refused">;
}

export async function join(address: string, request: JoinRequest): Promise<JoinAnswer> {
  const response = await post(`${address}/v1/agent/join`, undefined, request);
  return JoinAnswer.parse(await response.json());
}

/** The node's calls by HTTP. They throw RefusedError, or what `fetch` throws when there was no answer. */
export function createApi(address: string, nodeToken: string): ControlPlaneApi {
  return {
    async sendMessages(messages) {
      const response = await post(`${address}/v1/agent/messages`, nodeToken, { messages });
      return Acknowledgements.parse(await response.json()).messages;
    },
    async fetchLeases(tasks) {
      const response = await post(`${address}/v1/agent/leases`, nodeToken, { tasks });
      return Leases.parse(await response.json());
    },
    async fetchPlan(planId) {
      const response = await fetch(`${address}/v1/agent/plans/${encodeURIComponent(planId)}`, {
        headers: { authorization: `Bearer ${nodeToken}` },
        signal: AbortSignal.timeout(PLAN_WITHIN_MS),
      });
      await refuseUnlessOk(response);
      const bytes = Buffer.from(await response.arrayBuffer());
      if (bytes.length > PLAN_BYTES_MAX) throw new RefusedError(413, `a plan of ${bytes.length} bytes`);
      return bytes;
    },
    async fetchSweep(jobId, after) {
      const query = after === null ? "" : `?after=${encodeURIComponent(after)}`;
      const response = await fetch(`${address}/v1/agent/sweeps/${encodeURIComponent(jobId)}${query}`, {
        headers: { authorization: `Bearer ${nodeToken}` },
        signal: AbortSignal.timeout(REQUEST_WITHIN_MS),
      });
      await refuseUnlessOk(response);
      return SweepOrder.parse(await response.json());
    },
    async sendLogs(lines) {
      try {
        const response = await post(`${address}/v1/agent/logs`, nodeToken, { lines });
        await response.body?.cancel();
        return "sent";
      } catch (error) {
        if (error instanceof RefusedError && error.final) return "refused";
        throw error;
      }
    },
  };
}

async function post(url: string, token: string | undefined, body: unknown): Promise<Response> {
  const response = await fetch(url, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_WITHIN_MS),
  });
  await refuseUnlessOk(response);
  return response;
}

const DETAIL_CHARS_MAX = 300;

async function refuseUnlessOk(response: Response): Promise<void> {
  if (response.ok) return;
  const text = await response.text().catch(() => "");
  throw new RefusedError(response.status, text.slice(0, DETAIL_CHARS_MAX));
}
