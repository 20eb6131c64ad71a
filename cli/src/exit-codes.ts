/** What a script learns from `pc`. Part of the CLI's contract: see docs/cli.md. */
export const EXIT = {
  ok: 0,
  jobFailed: 1,
  usage: 2,
  noServer: 3,
  refused: 4,
  cancelled: 5,
  waitTimedOut: 6,
  bug: 70,
  outputFailed: 74,
  interrupted: 130,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_CODES_HELP = `Exit codes:
  0    done; with --wait, the job succeeded
  1    the job failed (or the cluster did)
  2    the command was not right as written; nothing was sent
  3    no server: not configured, not reachable, or out of order (5xx)
  4    the server refused the request (4xx)
  5    the job was cancelled
  6    the time to wait was over; the job goes on
  70   a bug of this program
  74   stdout could not be written to (a full disk, say)
  130  interrupted (Ctrl-C); the job goes on`;
