/** Every limit that more than one package must agree on. A limit's error names the limit and how to raise it. */

const KiB = 1024;
const MiB = 1024 * KiB;

/** A plan above this is refused; scan the data from storage instead of carrying it inside the plan. */
export const PLAN_BYTES_MAX = 64 * MiB;
/** One streamed submission: all of its distinct plans together. */
export const SUBMISSION_BYTES_MAX = 1024 * MiB;
export const SQL_CHARS_MAX = 1 * MiB;
export const TASKS_PER_JOB_MAX = 1_000_000;
/** Default of `max_keys` for a partitioned job, and the most that can be asked for. */
export const KEYS_DEFAULT_MAX = 10_000;
export const KEYS_MAX = 1_000_000;
export const PARTITION_COLUMNS_MAX = 8;
/** Key tasks that one engine run may carry: they share one read of the input. */
export const KEYS_PER_RUN_MAX = 1_000;
/** Short queries that one engine run may carry: they go to the engine and come back in one go. */
export const QUERIES_PER_RUN_MAX = 64;
export const HEAD_BYTES_MAX = 64 * KiB;
export const HEAD_ROWS_MAX = 100;
/** A control message on a node's connection. Anything larger goes by HTTP. */
export const NODE_MESSAGE_BYTES_MAX = 64 * KiB;
/** Attempts that a `hello` names at most; a node that holds more names the rest in a heartbeat by HTTP. */
export const HELLO_HOLDING_MAX = NODE_MESSAGE_BYTES_MAX / 128;
/** A plan this small travels inside the lease message. */
export const INLINE_PLAN_BYTES_MAX = 24 * KiB;
/** Attempts that one part of a sweep names. */
export const SWEEP_ATTEMPTS_MAX = 5_000;
export const MANIFEST_BYTES_MAX = 32 * KiB;
export const ERROR_MESSAGE_CHARS_MAX = 8 * KiB;
export const ERROR_TRACEBACK_CHARS_MAX = 32 * KiB;
/** What one attempt may write to its log before the rest is dropped and marked so. */
export const LOG_BYTES_PER_ATTEMPT_MAX = 1 * MiB;
export const LOG_LINE_CHARS_MAX = 8 * KiB;
export const LOG_BATCH_LINES_MAX = 2_000;
export const ENGINE_FRAME_BYTES_MAX = 256 * MiB;
/** With which an engine ends when the files were closed through which it speaks to its agent. */
export const ENGINE_EXIT_OF_CLOSED_FILES = 113;
export const WAIT_SECONDS_MAX = 60;
export const IDEMPOTENCY_KEY_CHARS_MAX = 200;
export const PAGE_SIZE_DEFAULT = 50;
export const PAGE_SIZE_MAX = 1_000;
export const ATTEMPTS_DEFAULT_MAX = 4;
export const ATTEMPTS_MAX = 20;
export const PRIORITY_DEFAULT = 50;
export const TASK_TIMEOUT_DEFAULT_MS = 24 * 3_600_000;
export const TASK_TIMEOUT_MAX_MS = 14 * 24 * 3_600_000;
export const CLUSTER_SIZE_MAX = 256;
export const CPUS_MAX = 1_024;
export const MEMORY_GIB_MAX = 24_576;
export const IDLE_TIMEOUT_DEFAULT_SECONDS = 600;
export const IDLE_TIMEOUT_MAX_SECONDS = 24 * 3_600;
/** A node renews its leases this often; a lease that was not renewed for LEASE_TTL_MS is given to another node. */
export const HEARTBEAT_INTERVAL_MS = 3_000;
export const LEASE_TTL_MS = 15_000;
