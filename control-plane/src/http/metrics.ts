import { collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Deps } from "../flow/deps.ts";

export interface Metrics {
  observeRequest(method: string, status: number, ms: number): void;
  render(): Promise<string>;
  readonly contentType: string;
}

/** Prometheus metrics: this process, its requests, its nodes, and what Postgres holds that is not done. */
export function makeMetrics(deps: Pick<Deps, "pool" | "dispatcher">): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const requests = new Histogram({
    name: "frazil_http_request_seconds",
    help: "Time of HTTP requests; long polls are included.",
    labelNames: ["method", "status"],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30],
    registers: [registry],
  });
  const gauge = (name: string, help: string, labelNames: string[], collect: (self: Gauge) => Promise<void> | void) =>
    new Gauge({
      name,
      help,
      labelNames,
      registers: [registry],
      async collect() {
        this.reset();
        await collect(this);
      },
    });
  gauge("frazil_jobs_open", "Jobs that have not ended, by status.", ["status"], async (self) => {
    const rows = await deps.pool.query<{ status: string; n: number }>({
      text: "SELECT status, count(*)::int AS n FROM jobs WHERE status IN ('queued', 'running') GROUP BY 1",
    });
    for (const row of rows) self.set({ status: row.status }, row.n);
  });
  gauge("frazil_nodes_connected", "Nodes connected to this process.", [], (self) =>
    self.set(deps.dispatcher.stats().nodes),
  );
  gauge("frazil_slots", "Slots of the nodes connected to this process.", [], (self) =>
    self.set(deps.dispatcher.stats().slots),
  );
  gauge("frazil_attempts_held", "Attempts leased to nodes connected to this process.", [], (self) =>
    self.set(deps.dispatcher.stats().held),
  );
  return {
    observeRequest: (method, status, ms) => requests.observe({ method, status }, ms / 1_000),
    render: () => registry.metrics(),
    contentType: registry.contentType,
  };
}
