import type { Cluster } from "@frazil/contracts";
import type { Api } from "./api.ts";
import { CliError, usageError } from "./cli-error.ts";
import type { ClustersOptions, StartOptions } from "./commands/clusters.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { formatAgo, formatCount, formatDuration, withoutControls } from "./format.ts";
import { RECONNECT_MS, withDeadline, withInterrupt } from "./job-end.ts";
import { checkId } from "./job-ids.ts";
import { makeContext } from "./job-spec.ts";
import { showList } from "./lists.ts";
import { describeError } from "./outcome.ts";
import { paintStatus } from "./paint.ts";
import type { Session } from "./session.ts";
import type { Column } from "./table.ts";

const HELD_SECONDS = 20;

export async function listClusters(session: Session, options: ClustersOptions): Promise<ExitCode> {
  const api = await session.api();
  const { status } = options;
  return showList(session, options, (page) => api.clusters({ status, ...page }), {
    lines: (cluster) => [cluster.id],
    show: (clusters) => (clusters.length === 0 ? session.note("no clusters") : showClusters(session, clusters)),
  });
}

function showClusters(session: Session, clusters: readonly Cluster[]): void {
  const columns: Column[] = [
    { title: "ID" },
    { title: "NAME", minWidth: 8, dropRank: 3 },
    { title: "STATUS" },
    { title: "NODES", align: "right", dropRank: 1 },
    { title: "EACH", minWidth: 10, dropRank: 4 },
    { title: "CLOUD", dropRank: 6 },
    { title: "JOBS", align: "right", dropRank: 2 },
    { title: "CREATED", align: "right", dropRank: 5 },
  ];
  const rows = clusters.map((cluster) => [
    cluster.id,
    withoutControls(cluster.name ?? ""),
    paintStatus(session.paint, cluster.status),
    `${cluster.nodes.ready}/${cluster.shape.clusterSize}`,
    eachNode(cluster),
    cluster.shape.cloud,
    String(cluster.activeJobs),
    formatAgo(cluster.createdAt, session.io.now()),
  ]);
  session.printTable(columns, rows);
}

function eachNode({ shape }: Cluster): string {
  const gpus = shape.gpus > 0 ? `, ${formatCount(shape.gpus, "GPU")}` : "";
  return `${formatCount(shape.cpus, "core")}, ${shape.memoryGiB} GiB${gpus}`;
}

export async function showCluster(session: Session, id: string): Promise<ExitCode> {
  const api = await session.api();
  showOne(session, await api.cluster(checkId(id, "cl")));
  return EXIT.ok;
}

function showOne(session: Session, cluster: Cluster): void {
  if (session.json) session.printJson(cluster);
  else if (session.quiet) session.print(cluster.status);
  else showInWords(session, cluster);
}

function showInWords(session: Session, cluster: Cluster): void {
  const { paint, io } = session;
  session.print(`${paint("bold", cluster.id)} ${paintStatus(paint, cluster.status)}`);
  const facts: [string, string | null][] = [
    ["name", cluster.name],
    [
      "nodes",
      `${cluster.nodes.ready} of ${cluster.shape.clusterSize} ready, each ${eachNode(cluster)}, on ${cluster.shape.cloud}`,
    ],
    ["jobs", String(cluster.activeJobs)],
    ["idles out", `after ${formatDuration(cluster.idleTimeoutSeconds * 1_000)} without work`],
    ["created", `${cluster.createdAt} (${formatAgo(cluster.createdAt, io.now())})`],
    ["ready", cluster.readyAt],
    ["ended", cluster.finishedAt],
  ];
  for (const [label, text] of facts)
    if (text !== null) session.print(`  ${paint("dim", label.padEnd(12))}${withoutControls(text)}`);
  if (cluster.error !== null) io.stderr.write(`${describeError(session, cluster.error)}\n`);
}

export async function startCluster(session: Session, options: StartOptions): Promise<ExitCode> {
  const api = await session.api();
  const startedAt = Date.now();
  const context = (await makeContext(options, api.me)) ?? (await api.me()).defaultContext;
  const cluster = await api.startCluster({ context, ...(options.name === undefined ? {} : { name: options.name }) });
  const waiting = options.wait || options.waitTimeout !== undefined;
  const deadlineAt = options.waitTimeout === undefined ? undefined : startedAt + options.waitTimeout;
  const { cluster: last, stopped } = waiting
    ? await untilReady(session, api, cluster, deadlineAt)
    : { cluster, stopped: undefined };
  if (session.json) session.printJson(last);
  else session.print(last.id);
  if (stopped !== undefined) throw stopped;
  session.note(session.paintError("dim", `${last.status}; pc clusters show ${last.id}, pc clusters stop ${last.id}`));
  if (last.error !== null && !session.json) session.io.stderr.write(`${describeError(session, last.error)}\n`);
  return waiting && last.status !== "ready" ? EXIT.jobFailed : EXIT.ok;
}

/** Waits until a cluster is ready or gone. Ctrl-C and the deadline stop the waiting; the cluster goes on starting. */
async function untilReady(
  session: Session,
  api: Api,
  first: Cluster,
  deadlineAt: number | undefined,
): Promise<{ cluster: Cluster; stopped?: CliError }> {
  const hint = `\`pc clusters stop ${first.id}\` stops it`;
  const interrupted = () =>
    new CliError("interrupted", EXIT.interrupted, `interrupted; cluster ${first.id} goes on starting`, { hint });
  const timedOut = () =>
    new CliError(
      "await_timeout",
      EXIT.waitTimedOut,
      `cluster ${first.id} was not ready when the time to wait was over`,
      { hint },
    );
  let cluster = first;
  const wait = async (signal: AbortSignal) => {
    while (cluster.status === "requested" || cluster.status === "starting")
      cluster = await api.waitCluster(first.id, HELD_SECONDS, { signal, retryMs: RECONNECT_MS });
  };
  session.note(`${first.id} is starting`);
  try {
    await withInterrupt(session.io, interrupted, (signal) => withDeadline(deadlineAt, timedOut, wait, signal));
    return { cluster };
  } catch (error) {
    if (error instanceof CliError && (error.code === "interrupted" || error.code === "await_timeout"))
      return { cluster, stopped: error };
    throw error;
  }
}

export async function stopClusters(session: Session, ids: readonly string[]): Promise<ExitCode> {
  if (ids.includes("-")) throw usageError('"-" stands for jobs only; name the cluster');
  const api = await session.api();
  for (const id of ids) {
    const cluster = await api.stopCluster(checkId(id, "cl"));
    if (session.json) session.printJsonLine(cluster);
    else if (session.quiet) session.print(cluster.id);
    else session.print(`${cluster.id} ${paintStatus(session.paint, cluster.status)}`);
  }
  return EXIT.ok;
}
