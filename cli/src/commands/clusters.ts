import type { ClusterStatus } from "@frazil/contracts";
import { type Command, Option } from "commander";
import type { Io } from "../io.ts";
import { addContextOptions, type ContextOptions } from "../job-options.ts";
import { addListOptions, type ListOptions } from "../lists.ts";
import { parseDurationMs } from "../option-values.ts";
import type { Run } from "../session.ts";

const EXAMPLES = `
Examples:
  $ pc clusters                                the newest ones
  $ pc clusters --status ready
  $ id=$(pc clusters start --cpus 16 --memory 64 --cluster-size 4 --wait)
  $ pc submit etl.py:daily --cluster "$id" --wait
  $ pc clusters stop "$id"`;

// The contract's own choices, spelled out so that --help need not load the contract; a test compares them.
export const CLUSTER_STATUSES: readonly ClusterStatus[] = ["requested", "starting", "ready", "stopping", "terminated"];

export interface ClustersOptions extends ListOptions {
  readonly status?: ClusterStatus;
}
export interface StartOptions extends ContextOptions {
  readonly name?: string;
  readonly wait?: boolean;
  readonly waitTimeout?: number;
}

export function define(command: Command, run: Run, io: Io): void {
  command
    .description("Lists, starts, shows and stops clusters. Jobs start the machines that they need by themselves.")
    .addHelpText("after", EXAMPLES);
  const list = command
    .command("list", { isDefault: true })
    .description("List clusters, newest first. --quiet prints their ids alone.")
    .addOption(new Option("--status <status>", "only clusters in this status").choices(CLUSTER_STATUSES));
  addListOptions(list);
  list.action((options: ClustersOptions) =>
    run(list, async (session) => (await import("../clusters.ts")).listClusters(session, options)),
  );

  const start = command.command("start").description("Start a cluster, for jobs with --cluster. Prints its id.");
  addContextOptions(start, io)
    .optionsGroup("Options:")
    .option("--name <name>", "a name for lists")
    .option("--wait", "wait until it is ready")
    .option("--wait-timeout <duration>", "stop waiting after this time (exit code 6)", parseDurationMs)
    .action((options: StartOptions) =>
      run(start, async (session) => (await import("../clusters.ts")).startCluster(session, options)),
    );

  const show = command.command("show").description("Show a cluster.").argument("<id>", "id of the cluster");
  show.action((id: string) => run(show, async (session) => (await import("../clusters.ts")).showCluster(session, id)));

  const stop = command
    .command("stop")
    .description("Stop clusters. Jobs that run on them are interrupted.")
    .argument("<ids...>", "ids of clusters");
  stop.action((ids: string[]) =>
    run(stop, async (session) => (await import("../clusters.ts")).stopClusters(session, ids)),
  );
}
