import * as clusters from "./clusters.ts";
import * as jobEnds from "./job-ends.ts";
import * as jobTasks from "./job-tasks.ts";
import * as jobs from "./jobs.ts";
import * as leasing from "./leasing.ts";
import * as logs from "./logs.ts";
import * as pages from "./pages.ts";
import * as plans from "./plans.ts";
import * as results from "./results.ts";
import * as sweeps from "./sweeps.ts";
import * as tasks from "./tasks.ts";
import * as tokens from "./tokens.ts";

/** Every statement, by table. The first argument of each is what runs it: the pool, or one transaction. */
export const db = { clusters, jobEnds, jobTasks, jobs, leasing, logs, pages, plans, results, sweeps, tasks, tokens };
export type Db = typeof db;
