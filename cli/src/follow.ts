import { setTimeout as sleep } from "node:timers/promises";
import { isFinalJobStatus, type Job, type LogLine } from "@frazil/contracts";
import type { Api } from "./api.ts";
import { CliError } from "./cli-error.ts";
import { backoffMs } from "./http.ts";
import { RECONNECT_MS } from "./job-end.ts";

export interface Following {
  readonly signal: AbortSignal;
  readonly onLog: (line: LogLine) => void;
  readonly onJob?: ((job: Job) => void) | undefined;
  /** Id of the last log line already seen. */
  readonly after?: string | undefined;
}

/** Reads a job's event stream to its end. A broken stream is opened again after the last log line that came, so that none is lost or shown twice. */
export async function followJob(api: Api, jobId: string, following: Following): Promise<Job> {
  const { signal } = following;
  const place: Place = { after: following.after, heardAt: Date.now(), failures: 0, askedForRest: false };
  while (true) {
    const ended = await readOnce(api, jobId, following, place);
    if (ended !== undefined) return ended;
    if (signal.aborted) throw signal.reason;
    place.failures += 1;
    await sleep(backoffMs(place.failures, Math.random()), undefined, { signal }).catch(() => {});
  }
}

interface Place {
  after: string | undefined;
  heardAt: number;
  failures: number;
  /** The job had ended, and the stream was opened once more for the lines that were missing. */
  askedForRest: boolean;
}

/** One connection's worth of events. The job once it has ended; undefined when the stream broke and may be opened again. */
async function readOnce(api: Api, jobId: string, following: Following, place: Place): Promise<Job | undefined> {
  const { signal } = following;
  try {
    for await (const event of api.events(jobId, place.after, signal)) {
      place.heardAt = Date.now();
      place.failures = 0;
      if (event.type === "log") {
        place.after = event.line.id;
        following.onLog(event.line);
        continue;
      }
      following.onJob?.(event.job);
      if (event.type === "end") return event.job;
    }
    return await endedMeanwhile(api, jobId, place, signal);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    const broken =
      error instanceof CliError &&
      (error.code === "unreachable" || error.code === "bad_gateway" || error.code === "unavailable");
    if (!broken || Date.now() - place.heardAt > RECONNECT_MS) throw error;
    return undefined;
  }
}

/** A server ends a stream after a while, without `end`. If the job has ended meanwhile, the rest is asked for once; then its status counts. */
async function endedMeanwhile(api: Api, jobId: string, place: Place, signal: AbortSignal): Promise<Job | undefined> {
  const job = await api.job(jobId, { signal });
  if (!isFinalJobStatus(job.status)) return undefined;
  if (place.askedForRest) return job;
  place.askedForRest = true;
  return undefined;
}
