"""Limits of the engine. Those that other packages share carry the names they have in contracts/src/limits.ts."""

KIB = 1024
MIB = 1024 * KIB

ENGINE_FRAME_BYTES_MAX = 256 * MIB
ENGINE_EXIT_OF_CLOSED_FILES = 113
HEADER_BYTES_MAX = 16 * MIB
PLAN_BYTES_MAX = 64 * MIB
SQL_CHARS_MAX = 1 * MIB
HEAD_ROWS_MAX = 100
MANIFEST_BYTES_MAX = 32 * KIB
ERROR_MESSAGE_CHARS_MAX = 8 * KIB
ERROR_TRACEBACK_CHARS_MAX = 32 * KIB
ERROR_NAME_CHARS_MAX = 500
ERROR_HINT_CHARS_MAX = 2_000
LOG_BYTES_PER_ATTEMPT_MAX = 1 * MIB
LOG_LINE_CHARS_MAX = 8 * KIB
WARNINGS_MAX = 100
WARNING_CATEGORY_CHARS_MAX = 200
WARNING_MESSAGE_CHARS_MAX = 4_000
PHASE_CHARS_MAX = 200
KEYS_PER_RUN_MAX = 1_000
QUERIES_PER_RUN_MAX = 64

# The longest chain of plan nodes. Polars walks a plan recursively, so that a longer one can exhaust the stack of the
# process.
PLAN_DEPTH_MAX = 10_000
PLAN_NODES_MAX = 1_000_000
# What a head may take of a written file before fewer rows are read for it.
HEAD_READ_BYTES_MAX = 64 * MIB
# How long one publisher waits for another one of the same output.
PUBLISH_LOCK_SECONDS_MAX = 30.0
# A directory larger than this is not replaced by mode "overwrite".
REPLACED_ENTRIES_MAX = 100_000
# A plan that carries so little may be run in memory.
LIGHT_PLAN_BYTES_MAX = 64 * 1024
